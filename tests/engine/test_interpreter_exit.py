"""The interpreter ends while a vCPU's thread is in guest code: nobody pulls memory or translations from under it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ENDS = {
    "main_returns": "",
    "exit_in_a_thread_of_its_own": "threading.Thread(target=sys.exit).start()",
    "cpu_closed_while_it_runs": "cpu.close()",
}

PROGRAM = """
import atexit, sys, threading, time
atexit.register(lambda: box.__dict__.clear())  # as the interpreter may: physical memory goes before the vCPU
from pyxen.engine.sandbox import DATA, Sandbox
from pyxen.engine.unicorn_engine import make_engine

box = Sandbox(make_engine)
# lock inc [DATA]; jmp back
cpu = box.cpu(bytes.fromhex("f048ff042500000200 ebf5"))

def live():
    while True:
        cpu.run()

threading.Thread(target=live, daemon=True).start()
while not box.read(DATA):
    time.sleep(0.001)
print("running", flush=True)
"""


@pytest.mark.parametrize("end", ENDS)
def test_a_running_vcpu_does_not_crash_the_process(end: str) -> None:
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", PROGRAM + ENDS[end]],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == "running\n"
        assert done.returncode == 0, done.stderr


def test_the_collector_may_end_a_machine_before_its_vcpus() -> None:
    """Both are in one cycle of garbage: in which order they are finalised is not defined."""
    program = """
import gc
from pyxen.engine.sandbox import Sandbox
from pyxen.engine.unicorn_engine import make_engine

for _ in range(20):
    box = Sandbox(make_engine)
    cpus = [box.cpu() for _ in range(3)]
    machine = cpus[0]._machine
    machine.__del__()
    machine.handle = None
    del box, cpus, machine
    gc.collect()
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
