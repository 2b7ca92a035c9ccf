"""Clients that the loops of one process share: a thousand loops of a triggerer open no thousand connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import ParamSpec, TypeVar

from cachetools import TTLCache, cached

CLIENT_LIFETIME = 60.0
"""Seconds for which a client is shared. Then a new one is made, which knows what the connection says by then."""

POOL_SIZE = 100
"""Connections to one server that are kept open; more are opened if more are needed at one time."""

P = ParamSpec("P")
T = TypeVar("T")


def shared(make: Callable[P, T]) -> Callable[P, T]:
    """Share one client among all calls with the same arguments for ``CLIENT_LIFETIME`` seconds. Thread-safe."""
    cache: TTLCache[object, T, float] = TTLCache(maxsize=16, ttl=CLIENT_LIFETIME, timer=lambda: time.monotonic())
    return cached(cache, lock=Lock())(make)
