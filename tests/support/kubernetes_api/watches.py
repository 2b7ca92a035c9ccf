"""Watches: the events since a version, and then those that come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from tests.support.kubernetes_api.kinds import Object, Target
from tests.support.kubernetes_api.selectors import Selector
from tests.support.kubernetes_api.status import Refusal
from tests.support.kubernetes_api.store import Event, Store


class Watch:
    """One watch, as lines of JSON.

    :param seconds: until the server ends it; None is never.
    """

    def __init__(self, store: Store, target: Target, selects: Selector, since: str, seconds: float | None) -> None:
        self._store, self._target, self._selects = store, target, selects
        self._since = since
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._closed = False

    def close(self) -> None:
        """End it, from any thread."""
        with self._store.lock:
            self._closed = True
            self._store.changed.notify_all()

    def lines(self, patience: float | None, late: Callable[[], BaseException]) -> Iterator[bytes]:
        """Yield an event in each line.

        :param patience: seconds without an event after which the client gives up, by the error ``late``.
        """
        try:
            seen, begun = self._backlog()
        except Refusal as refusal:
            yield _line("ERROR", refusal.body)
            return
        yield from begun
        while not self._closed:
            event = self._next(seen, patience, late)
            if event is None:
                return
            seen = event.revision
            if line := self._said(event):
                yield line

    def _backlog(self) -> tuple[int, list[bytes]]:
        """Return the version after which events are told, and, if none was given, what is there."""
        with self._store.lock:
            if self._since not in ("", "0"):
                if self._store.compacted > int(self._since):
                    raise Refusal(410, message=f"too old resource version: {self._since} ({self._store.compacted})")
                return int(self._since), []
            there = self._store.all(self._target.kind, self._target.namespace)
            return self._store.revision, [_line("ADDED", body) for body in there if self._selects(body)]

    def _next(self, seen: int, patience: float | None, late: Callable[[], BaseException]) -> Event | None:
        gives_up = None if patience is None else time.monotonic() + patience
        with self._store.lock:
            while not self._closed:
                for event in self._store.events:
                    if event.revision > seen:
                        return event
                now = time.monotonic()
                if self._ends is not None and now >= self._ends:
                    return None
                if gives_up is not None and now >= gives_up:
                    raise late()
                left = [limit - now for limit in (self._ends, gives_up) if limit is not None]
                self._store.changed.wait(min(left, default=None))
        return None

    def _said(self, event: Event) -> bytes | None:
        """Return what the watch says of an event: what is selected no more is deleted, for it."""
        before, after = (body if body and self._concerns(event, body) else None for body in (event.old, event.new))
        if after:
            return _line("MODIFIED" if before else "ADDED", after)
        if before:
            metadata = {**before["metadata"], "resourceVersion": str(event.revision)}
            return _line("DELETED", {**(event.new or before), "metadata": metadata})
        return None

    def _concerns(self, event: Event, body: Object) -> bool:
        place = self._target.namespace in (None, body["metadata"].get("namespace"))
        return event.kind == self._target.kind and place and self._selects(body)


def _line(kind: str, body: object) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"
