"""A bound on the time of any code, also of code that waits for a server or matches a pattern for ever."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from airflow_deploy.domain.errors import DeployError


class _TooLateError(BaseException):
    """Passes through what catches every ``Exception``."""


@contextmanager
def at_most(seconds: float, late: DeployError) -> Iterator[None]:
    """Raise ``late`` in the body after so many seconds: in the main thread, in which Airflow runs tasks.

    A connection that the body waits on is closed, so Docker ends the build.

    An outer alarm, such as that of a task's ``execution_timeout``, goes on.
    """

    def ring(*_: object) -> None:
        raise _TooLateError

    handler, began = signal.signal(signal.SIGALRM, ring), time.monotonic()
    outer, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, in case a library swallows it
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TooLateError:
        raise late from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, outer - (time.monotonic() - began)), interval)
