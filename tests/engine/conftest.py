from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyxen.engine.sandbox import Sandbox
from pyxen.engine.unicorn_engine import make_engine


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(make_engine) as sandbox:
        yield sandbox
