"""Runs hypothesis's state machines: with fixed seeds, for a given number of examples, with shrinking, and again from a failure's report.

A failure prints the shortest sequence of steps that was found, and a line ``@reproduce_failure(version, blob)``. ``PYXEN_REPLAY=blob``
with the same test repeats just that.
"""

from __future__ import annotations

import os

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

LONG = os.environ.get("PYXEN_LONG") == "1"
SEED = int(os.environ.get("PYXEN_SEED", "1"))
REPLAY = os.environ.get("PYXEN_REPLAY", "")

SETTINGS = settings(
    database=None,
    deadline=None,
    derandomize=False,
    print_blob=True,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def explore(machine: type[RuleBasedStateMachine], *, seed: int, examples: int, steps: int) -> None:
    """``examples`` runs of about ``steps`` rules, which ``seed`` determines. The first failure is shrunk and raised."""
    own = type(machine.__name__, (machine,), {})
    if REPLAY:
        hypothesis.reproduce_failure(hypothesis.__version__, REPLAY.encode())(own)
    else:
        hypothesis.seed(seed)(own)
    run_state_machine_as_test(own, settings=settings(SETTINGS, max_examples=examples, stateful_step_count=steps))
