"""Fixtures of the store's tests."""

from __future__ import annotations

import pytest

from pyxen.xenstore.store import Store
from tests.unit.xenstore.simulated_guest import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store(world: World) -> Store:
    """Domain 0's own interface to the world's store."""
    return Store(world.daemon)
