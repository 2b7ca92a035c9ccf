"""The requests as the server has got them, and what a test lets happen to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.support.kubernetes_api.kinds import Kinds, Target
from tests.support.kubernetes_api.status import Refusal, forbidden, page_not_found

WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Request:
    """One request: what was sent and, once it is answered, the answer's code."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: tuple[Any, Any] = (None, None)
    """Seconds to connect and to wait for an answer, as the client has set them."""
    status: int | None = None
    """None while there is no answer, or if it was lost."""
    done: bool = False
    """Whether the server carried it out, even if the answer was lost."""

    @property
    def url(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def dry_run(self) -> bool:
        options = self.body if self.method == "DELETE" and isinstance(self.body, dict) else {}
        return self.query.get("dryRun") == "All" or options.get("dryRun") == ["All"]

    @property
    def writes(self) -> bool:
        """Whether it asks to change something."""
        return self.method in WRITES and not self.dry_run


@dataclass
class Hook:
    """What happens to the next ``times`` requests that match; without ``times``, to all."""

    method: str | None
    path: re.Pattern[str]
    times: int | None

    def takes(self, request: Request) -> bool:
        """Whether it is about this request, which then counts."""
        if self.times == 0 or self.method not in (None, request.method) or not self.path.search(request.url):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


@dataclass
class Callback(Hook):
    """Another client's deed, before or after the server answers."""

    call: Callable[[], object]
    after: bool = False


@dataclass
class Fault(Hook):
    """An answer that replaces the server's, or an error on the way.

    :param done: the server does what was asked, and the answer is lost.
    """

    status: int = 503
    reason: str = ""
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: BaseException | type[BaseException] | None = None
    done: bool = False

    def refusal(self, kinds: Kinds, path: str) -> Refusal:
        """Return the answer. A 404 without a reason names nothing, as that of a server that is starting does."""
        if self.status == 404 and not self.reason:
            return page_not_found()
        if self.status == 502:
            return Refusal(502, text="Bad Gateway\n")
        try:
            target: Target | None = kinds.target(path)
        except Refusal:
            target = None
        if target is None or self.status not in (403, 404, 409):
            return Refusal(self.status, self.reason)
        refusal = forbidden(target.kind, target.name)
        message = refusal.message if self.status == 403 else ""
        return Refusal(self.status, self.reason, message, refusal.details)
