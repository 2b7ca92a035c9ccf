"""Start parts that need one another, each as soon as what it needs is ready, and say how it goes."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tests.stack.errors import StackError
from tests.stack.processes import Process, end_all

_REMINDER_SECONDS = 15.0
_POLL_SECONDS = 0.2


def _at_once() -> bool:
    return True


@dataclass(frozen=True)
class Part:
    """One thing to start.

    :param needs: names of the parts that must be ready first.
    :param start: starts it; gives its process if it is one, or ends when the work is done.
    :param ready: whether it can be used; asked again and again.
    :param patience: seconds until a part that is not ready has failed.
    """

    name: str
    needs: tuple[str, ...]
    start: Callable[[], Process | None]
    ready: Callable[[], bool] = _at_once
    patience: float = 300


class Cancelled(Exception):
    """The start was given up while this part was on its way."""


def bring_up(parts: Sequence[Part], say: Callable[[str], None], *, there: Collection[str] = ()) -> None:
    """Start all parts and return when the last one is ready.

    :param there: names of parts that are not started here: they run already.
    :param say: takes the progress, a line at a time.
    :raises StackError: when a part fails; no further one is started then.
    """
    began = time.monotonic()
    given_up = threading.Event()
    working: dict[str, float] = {}

    def run(part: Part) -> None:
        working[part.name] = time.monotonic()
        try:
            _run(part, given_up)
        finally:
            started = working.pop(part.name)
        now = time.monotonic()
        needed = f" (needed {', '.join(part.needs)})" if part.needs else ""
        say(f"{now - began:6.1f} s  {part.name:<20} ready in {now - started:4.1f} s{needed}")

    with ThreadPoolExecutor(len(parts)) as pool:
        waiting, ready = list(parts), set(there)
        pending: dict[Future[None], str] = {}
        try:
            while waiting or pending:
                for part in [part for part in waiting if ready.issuperset(part.needs)]:
                    waiting.remove(part)
                    pending[pool.submit(run, part)] = part.name
                done, _ = wait(pending, timeout=_REMINDER_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    ready.add(pending.pop(future))
                if not done:
                    names = ", ".join(f"{name} ({time.monotonic() - since:.0f} s)" for name, since in working.items())
                    say(f"{time.monotonic() - began:6.1f} s  … waiting for {names}")
        except BaseException:
            # The pool waits for its threads, and they for what they run: end that first.
            given_up.set()
            end_all()
            raise


def _run(part: Part, given_up: threading.Event) -> None:
    process = part.start()
    deadline = time.monotonic() + part.patience
    while not part.ready():
        if given_up.is_set():
            raise Cancelled
        if process and not process.alive():
            raise StackError(f"{part.name} died; the end of {process.log}:\n{process.log_tail()}")
        if time.monotonic() > deadline:
            told = f"; the end of {process.log}:\n{process.log_tail()}" if process else ""
            raise StackError(f"{part.name} is not ready after {part.patience:.0f} s{told}")
        given_up.wait(_POLL_SECONDS)
