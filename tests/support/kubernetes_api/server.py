"""The server as tests see it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kubernetes import client

from tests.support.kubernetes_api.api import Api
from tests.support.kubernetes_api.copies import copied
from tests.support.kubernetes_api.journal import Callback, Fault, Request
from tests.support.kubernetes_api.kinds import Kind, Kinds, Object, Target
from tests.support.kubernetes_api.status import Refusal
from tests.support.kubernetes_api.store import Event, Store
from tests.support.kubernetes_api.transport import Answer, pool_classes
from tests.support.kubernetes_api.writes import Writes


class KubernetesApi:
    """An API server in memory, under the real client.

    :param clock: unix seconds; a test may move it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.kinds = Kinds()
        self.requests: list[Request] = []
        """All requests, oldest first."""
        self.store = Store(lambda: self.clock())
        self.clock = clock
        self.url = f"http://{uuid.uuid4().hex}.test"
        self._api = Api(self.store, self.kinds)
        self._faults: list[Fault] = []
        self._callbacks: list[Callback] = []

    # What a client gets.

    def client(self, **configuration: Any) -> Any:
        """Return an ``ApiClient`` of this server.

        :param configuration: attributes of the client's configuration, ``retries`` for instance; it has none by itself.
        """
        settings = client.Configuration(host=self.url)
        settings.retries, settings.proxy = False, None
        for name, value in configuration.items():
            setattr(settings, name, value)
        return self.wire(client.ApiClient(settings))

    def wire(self, api: Any) -> Any:
        """Let all requests of an ``ApiClient`` come to this server, and return it."""
        api.rest_client.pool_manager.pool_classes_by_scheme = pool_classes(self.serve)
        return api

    def serve(self, request: Request) -> Answer:
        """Answer one request: callbacks, then faults, then the API."""
        self.requests.append(request)
        self._call(request, after=False)
        with self.store.lock:
            fault = next((one for one in self._faults if one.takes(request)), None)
        answer = self._carried_out(request) if fault is None or fault.done else None
        if answer is not None:
            self._call(request, after=True)
        if fault is not None:
            answer = self._failed(fault, request)
        assert answer is not None
        request.status = answer.status
        return answer

    def _carried_out(self, request: Request) -> Answer:
        try:
            with self.store.lock:
                answer = self._api.answer(request)
        except Refusal as refusal:
            return Answer(refusal.code, refusal.body)
        request.done = True
        return answer

    def _failed(self, fault: Fault, request: Request) -> Answer:
        if fault.error is not None:
            raise fault.error
        body = fault.refusal(self.kinds, request.path).body if fault.body is None else fault.body
        return Answer(fault.status, body, fault.headers)

    def _call(self, request: Request, *, after: bool) -> None:
        with self.store.lock:
            called = [one for one in self._callbacks if one.after is after and one.takes(request)]
        for one in called:
            one.call()

    # What a test orders.

    def fail(
        self,
        path: str = "",
        status: int = 503,
        *,
        method: str | None = None,
        times: int | None = 1,
        exception: BaseException | type[BaseException] | None = None,
        reason: str = "",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        done: bool = False,
    ) -> None:
        """Let the next requests fail whose path and query match the expression ``path``.

        :param status: of the answer. 404 names no object, unless ``reason`` is ``NotFound``.
        :param times: how many; None is all until ``heal``.
        :param exception: raised as by the socket: ``TimeoutError`` becomes urllib3's ``ReadTimeoutError``.
        :param body: of the answer, a string as it is; without it, the ``Status`` that fits.
        :param done: the server does what was asked, and only the answer fails.
        """
        answer = (status, reason, body, headers or {})
        self._faults.append(Fault(method, re.compile(path), times, *answer, exception, done))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def before(
        self, path: str, call: Callable[[], object], *, method: str | None = None, times: int | None = 1
    ) -> None:
        """Call this before the next matching request is carried out: another client is faster."""
        self._callbacks.append(Callback(method, re.compile(path), times, call))

    def after(self, path: str, call: Callable[[], object], *, method: str | None = None, times: int | None = 1) -> None:
        """Call this after the next matching request was carried out, before the client hears of it."""
        self._callbacks.append(Callback(method, re.compile(path), times, call, after=True))

    def on_write(self, call: Callable[[Event], object]) -> None:
        """Call this after each write, as a controller hears of it."""
        self.store.listeners.append(call)

    def install(self, group: str, version: str, kind: str, plural: str, **more: Any) -> None:
        """Install a CRD."""
        self.kinds.install(Kind(group, version, kind, plural, custom=True, has_generation=True, **more))

    def uninstall(self, kind: str) -> None:
        """Let the server not know the kind; its objects are gone."""
        gone = self.kinds.uninstall(kind)
        for body in [*self.store.all(gone)]:
            self.store.remove(gone, body["metadata"].get("namespace"), body["metadata"]["name"])

    # What a test reads and writes, past the API: no request is noted.

    @property
    def writes(self) -> list[Request]:
        """The requests that asked to change something, dry runs left out; ``done`` says which were carried out."""
        return [request for request in self.requests if request.writes]

    @contextmanager
    def recorded(self) -> Iterator[list[Request]]:
        """Give a list of the requests of a ``with`` block; it is filled when the block ends."""
        begun, found = len(self.requests), list[Request]()
        yield found
        found += self.requests[begun:]

    def add(self, *objects: Mapping[str, Any], manager: str = "kubectl") -> Object:
        """Put objects there, their status and managers included, in place of what has the same name; return the last.

        Namespace, apiVersion and everything that the server gives may be left out.
        """
        made: Object = {}
        for item in objects:
            made = self._add(copied(dict(item)), manager)
        return made

    def _add(self, body: Object, manager: str) -> Object:
        kind = self.kinds.named(body["kind"])
        body = {"apiVersion": kind.api_version, **body}
        metadata = body["metadata"]
        if kind.namespaced:
            metadata.setdefault("namespace", "default")
        with self.store.lock:
            old = self.find(body["kind"], metadata.get("namespace"), metadata["name"])
            if old is not None:
                return self.edit(body["kind"], metadata.get("namespace"), metadata["name"], lambda _: body, manager)
            return Writes(self.store, manager).put(kind, body)

    def find(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """Return a copy of an object, None if it is not there."""
        return self.store.get(self.kinds.named(kind), namespace, name)

    def get(self, kind: str, namespace: str | None, name: str) -> Object:
        """Return a copy of an object.

        :raises LookupError: it is not there.
        """
        if (found := self.find(kind, namespace, name)) is None:
            raise LookupError(f"there is no {kind} {namespace}/{name}")
        return found

    def all(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return copies of the objects with these labels, by name."""
        there, wanted = self.store.all(self.kinds.named(kind), namespace), (labels or {}).items()
        return [body for body in there if wanted <= (body["metadata"].get("labels") or {}).items()]

    def edit(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        change: Callable[[Object], Object | None],
        manager: str = "kubectl-edit",
    ) -> Object:
        """Write an object as another client does; ``change`` alters it, or returns what takes its place."""
        with self.store.lock:
            self.get(kind, namespace, name)
            target = Target(self.kinds.named(kind), namespace, name)
            return Writes(self.store, manager).edit(target, lambda body: change(body) or body)

    def remove(self, kind: str, namespace: str | None, name: str) -> None:
        """Let an object be gone at once, in spite of its finalizers."""
        self.store.remove(self.kinds.named(kind), namespace, name)

    def compact(self) -> None:
        """Forget all events: a watch from an earlier version is told that it is too old."""
        with self.store.lock:
            self.store.compacted = self.store.revision
            self.store.events.clear()
