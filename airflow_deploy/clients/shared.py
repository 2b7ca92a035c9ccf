"""Clients that the loops of one process share: a server need not bear a thousand connections of one triggerer's."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

CLIENT_LIFETIME = 60.0
"""Seconds for which a client is given out. Who begins later gets one that knows what the connection says by then."""

POOL_SIZE = 100
"""Connections to one server that are kept open; more are opened where more are needed at one time."""

T = TypeVar("T")


def shared(make: Callable[..., T]) -> Callable[..., T]:
    """Share one client among all calls with the same arguments for ``CLIENT_LIFETIME`` seconds. Thread-safe."""

    @lru_cache(maxsize=16)
    def made(_age: int, *arguments: str) -> T:
        return make(*arguments)

    @wraps(make)
    def share(*arguments: str) -> T:
        return made(int(time.monotonic() // CLIENT_LIFETIME), *arguments)

    return share
