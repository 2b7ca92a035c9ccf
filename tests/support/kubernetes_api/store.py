"""The objects, their versions, and the events of all writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Condition, RLock

from tests.support.kubernetes_api.copies import copied
from tests.support.kubernetes_api.kinds import Kind, Object

Key = tuple[str, str | None, str]
"""Resource, namespace and name."""


@dataclass(frozen=True)
class Event:
    """One write: what was there, and what is there now; None is nothing."""

    revision: int
    kind: Kind
    old: Object | None
    new: Object | None


class Store:
    """The server's memory. Objects are copied on the way in and out; hold ``lock`` to read and write as one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.lock = RLock()
        self.changed = Condition(self.lock)
        self.events: list[Event] = []
        self.revision = 1
        self.compacted = 0
        """Up to which version events are forgotten."""
        self.listeners: list[Callable[[Event], object]] = []
        self._clock = clock
        self._objects: dict[Key, Object] = {}
        self._uids = 0

    def now(self) -> str:
        """Return the time as the API writes it."""
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return copied(self.kept(kind, namespace, name))

    def kept(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return the object itself, for answers: it must not be altered. A write replaces it."""
        with self.lock:
            return self._objects.get((kind.resource, namespace, name))

    def all(self, kind: Kind, namespace: str | None = None) -> Iterator[Object]:
        """Yield copies in the order of etcd's keys."""
        with self.lock:
            yield from [copied(body) for body in self.all_kept(kind, namespace)]

    def all_kept(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """Return the objects themselves in the order of etcd's keys; they must not be altered."""
        with self.lock:
            keys = sorted(key for key in self._objects if key[0] == kind.resource and namespace in (None, key[1]))
            return [self._objects[key] for key in keys]

    def fresh(self, kind: Kind, body: Object) -> Object:
        """Return a new object with what only the server gives; nothing is written."""
        self._uids += 1
        given = {"uid": str(uuid.UUID(int=self._uids)), "creationTimestamp": self.now()}
        if kind.has_generation:
            given |= {"generation": 1}  # type: ignore[dict-item]
        return {**body, "metadata": {**body["metadata"], **given}}

    def write(self, kind: Kind, body: Object) -> Object:
        """Keep the object under a new version; one that is being deleted goes with its last finalizer."""
        with self.lock:
            metadata = body["metadata"]
            key = (kind.resource, metadata.get("namespace"), metadata["name"])
            self.revision += 1
            kept = copied({**body, "metadata": {**metadata, "resourceVersion": str(self.revision)}})
            old = self._objects.get(key)
            held = old is not None and old["metadata"].get("finalizers")
            goes = held and metadata.get("deletionTimestamp") and not metadata.get("finalizers")
            if goes:
                self._objects.pop(key, None)
            else:
                self._objects[key] = kept
            self._tell(Event(self.revision, kind, old, None if goes else kept))
            return copied(kept)

    def remove(self, kind: Kind, namespace: str | None, name: str) -> None:
        """Let the object be gone, in spite of its finalizers."""
        with self.lock:
            old = self._objects.pop((kind.resource, namespace, name))
            self.revision += 1
            self._tell(Event(self.revision, kind, old, None))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.changed.notify_all()
        for listener in [*self.listeners]:
            listener(event)
