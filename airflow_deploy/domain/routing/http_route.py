"""The HTTPRoute: weights of backends divide the traffic, and one write moves all of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow_deploy.domain.errors import FencedError, RefusedError
from airflow_deploy.domain.names import MIRROR_SUFFIX, mirror_name
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import CANARY, Patch, Shift, test_op
from airflow_deploy.domain.routing.team_route import TeamRoute

DEFAULT_PORT = 80
"""Of a Service that no route has named yet: of a service's first version."""
TOTAL_WEIGHT, FINE_TOTAL_WEIGHT = 100, 1_000_000
"""What the weights of a rule come to. Of the finest ones that the API permits, one part counts as no share."""
ZERO_WEIGHT_UNSAFE = frozenset({"gateway.envoyproxy.io/gatewayclass-controller"})
"""Controllers whose gateways forget a backend that has filters of its own when its weight becomes 0, and lose requests
over that: there, a backend without traffic keeps one part of the finest weights for as long as it has pods."""
TRAEFIK_CONTROLLER = "traefik.io/gateway-controller"
"""The controller whose gateway answers 500 to all users of a rule that mirrors by the standard filter."""
NO_SHARE = Shift(0, 0.0)


@dataclass(frozen=True)
class Backend:
    """One backend of the route's rules; ``weight`` is relative."""

    name: str
    weight: int


class HttpRoute(TeamRoute):
    """A team's HTTPRoute. Its rules are one atomic list, so they are changed by JSON Patch alone."""

    ROUTER: ClassVar[str] = "gateway"
    ENDS_BY_PODS: ClassVar[bool] = False
    DIVIDES: ClassVar[str] = "rules"
    IGNORED: ClassVar[str] = "/spec/rules/*/backendRefs"

    def rules_with(self, service: str) -> list[int]:
        """Return the indices of the rules that name ``service`` as a backend."""
        return [i for i, rule in enumerate(self._rules) if any(b["name"] == service for b in _refs(rule))]

    def backends(self, rule: int) -> list[Backend]:
        """Return one rule's backends."""
        return [Backend(ref["name"], ref.get("weight", 1)) for ref in _refs(self._rules[rule])]

    def weights(self, service: str) -> list[dict[str, int]]:
        """Return, for each rule that names ``service``, the weights of all its backends by name."""
        return [{b.name: b.weight for b in self.backends(rule)} for rule in self.rules_with(service)]

    def serves(self, version: str) -> bool:
        """Whether ``version`` gets any traffic."""
        return any(version in self._served(rule) for rule in self.rules_with(version))

    def names(self, version: str) -> bool:
        """Whether ``version`` is a backend, at any weight."""
        return bool(self.rules_with(version))

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return False: it sends requests to Services."""
        return False

    def mirrors_to(self, version: str) -> bool:
        """Whether requests are copied to ``version``; their senders are answered by the stable."""
        return bool(self._mirroring(mirror_name(version)))

    @property
    def mirrors_by_filter(self) -> bool:
        """Whether its gateway is one that mirrors by the standard filter, if by any means."""
        return bool(self._controllers) and TRAEFIK_CONTROLLER not in self._controllers

    def labels_of(self, version: str) -> None:
        """Return None: each version has a Service of its own."""
        return

    def filters(self, service: str) -> bool:
        """Whether requests or answers of ``service`` alone are changed on their way, by its backend's own filters."""
        return any(ref.get("filters") for rule in self._rules for ref in _refs(rule) if ref["name"] == service)

    def mentions(self, version: str) -> bool:
        """Whether ``version`` is named anywhere in the rules, by a filter that mirrors requests, say."""
        return _names(self._rules, version)

    def _served(self, rule: int) -> set[str]:
        """Return the backends that get traffic by a rule."""
        backends = self.backends(rule)
        total = sum(backend.weight for backend in backends)
        return {backend.name for backend in backends if backend.weight * FINE_TOTAL_WEIGHT > total}

    def _whole(self, rule: int) -> int:
        return (
            FINE_TOTAL_WEIGHT
            if sum(backend.weight for backend in self.backends(rule)) == FINE_TOTAL_WEIGHT
            else TOTAL_WEIGHT
        )

    @property
    def _controllers(self) -> set[str]:
        """The controllers of the gateways that have accepted it; one that it has left may leave its entry there."""
        taken = (self.body.get("status") or {}).get("parents") or []
        named = [self._parent(ref) for ref in self.body["spec"].get("parentRefs") or []]
        return {entry["controllerName"] for entry in taken if self._parent(entry["parentRef"]) in named}

    def _parent(self, ref: Mapping[str, Any]) -> tuple[str, str]:
        return ref.get("namespace") or self.body["metadata"]["namespace"], ref["name"]

    def _mirroring(self, mirror: str) -> list[int]:
        """Return the indices of the rules that copy requests to ``mirror``."""
        by_filter = (i for i, rule in enumerate(self._rules) if mirror in _copies(rule))
        return sorted({*self.rules_with(mirror), *by_filter})

    @property
    def _rules(self) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = self.body["spec"].get("rules") or []
        return rules

    @property
    def named(self) -> list[str]:
        """All backends of all rules, at any weight."""
        return sorted({b.name for i in range(len(self._rules)) for b in self.backends(i)})

    def serving(self) -> str:
        """Return the one Service that serves now; an empty name if none does.

        :raises RefusedError: several share the traffic unasked, or a rule names it twice.
        """
        serving = sorted({name for i in range(len(self._rules)) for name in self._served(i)})
        # A version that answers through a mirror serves as well, until the mirror is taken out.
        serving += sorted(
            {name for rule in self._rules for name in _copies(rule) if re.fullmatch(OUR_MIRROR_NAME, name)}
        )
        if len(serving) > 1:
            apart = all(len(self._served(i)) < 2 for i in range(len(self._rules)))
            raise self._unclear(" and ".join(serving), apart=apart)
        for name in serving:
            for rule in self.rules_with(name):
                if [backend.name for backend in self.backends(rule)].count(name) > 1:
                    raise RefusedError(f"route {self.name}: rule {rule} names {name} twice; name it once")
        return serving[0] if serving else ""

    def stable(self) -> str:
        """Return the one Service that serves now.

        :raises RefusedError: none serves, several share the traffic unasked, or a rule names it twice.
        """
        if serving := self.serving():
            return serving
        raise self._unclear("no Service")

    def _unclear(self, found: str, *, apart: bool = False) -> RefusedError:
        """Return the error for a route whose serving version is not clear.

        :param apart: whether each rule has one Service, and they are several.
        """
        remedy = "give one Service the whole weight before deploying"
        if apart:
            remedy = (
                "its rules lead to several Services, and a deployment moves all of a route's traffic: give this service"
                " a route of its own, with the same hostnames, which gateways join"
            )
        if self.phase == CANARY:
            remedy = f"the deployment {self.owner} is not over: wait until it is, or let the guard return its traffic"
        return RefusedError(f"route {self.name}: {found} serves it; {remedy}")

    def vacant(self) -> list[int]:
        """Return the indices of the rules in which a first version may serve: a redirect answers by itself.

        :raises RefusedError: there are none.
        """
        found = [i for i, rule in enumerate(self._rules) if not _redirects(rule)]
        if not found:
            raise RefusedError(f"route {self.name}: it has no rule that could send requests to a Service; add one")
        return found

    def port_of(self, service: str) -> int:
        """Return the port under which the route reaches ``service``.

        :raises RefusedError: its rules use several.
        """
        ports = {int(ref["port"]) for rule in self._rules for ref in _refs(rule) if ref["name"] == service}
        if len(ports) != 1:
            raise RefusedError(f"route {self.name}: its rules reach {service} by several ports; use one")
        return ports.pop()

    def attach_patch(self, claim: Claim) -> Patch:
        """Return the part of a claim that adds the candidate without traffic.

        Without a stable, which has an empty name then, the candidate is all that the rules name.

        :raises RefusedError: there is no stable, and no rule in which the candidate could serve.
        """
        stable = claim.stable
        if not stable:
            alone = {"kind": "Service", "name": claim.candidate, "port": DEFAULT_PORT, "weight": 0}
            return [
                {"op": "add", "path": _backends(rule), "value": [alone, *self._others(rule, claim)]}
                for rule in self.vacant()
            ]
        patch: Patch = []
        for rule in self._serving(stable):
            (kept,) = (ref for ref in _refs(self._rules[rule]) if ref["name"] == stable)
            forgets = bool(ZERO_WEIGHT_UNSAFE & self._controllers and kept.get("filters"))
            weights = _weights(NO_SHARE, claim, FINE_TOTAL_WEIGHT if forgets else TOTAL_WEIGHT)
            # Same port and filters: it may become the stable.
            both = [{**kept, "name": name, "weight": weights[name]} for name in (stable, claim.candidate)]
            others = self._others(rule, claim)
            patch.append({"op": "replace", "path": _backends(rule), "value": [*both, *others]})
        return patch

    def _serving(self, service: str) -> list[int]:
        """Return the indices of the rules by which ``service`` gets traffic: what is switched off stays so."""
        return [rule for rule in self.rules_with(service) if service in self._served(rule)]

    def _others(self, rule: int, claim: Claim) -> list[dict[str, Any]]:
        """Return the backends of a rule that are the team's own, and not what deployments have left there."""
        try:
            left = {claim.stable, claim.candidate, *self.versions}
        except FencedError:
            left = {claim.stable, claim.candidate}
        refs = _refs(self._rules[rule])
        return [ref for ref in refs if ref["name"] not in left and not re.fullmatch(OUR_BACKEND_NAME, ref["name"])]

    def check_share(self, claim: Claim, shift: Shift) -> None:
        """Check that all rules that serve one of the versions name both, with the weights of that shift."""
        stable, candidate = claim.stable, claim.candidate
        rules = self.rules_with(candidate)
        if not rules or (stable and not {*self._serving(stable)} <= {*rules} <= {*self.rules_with(stable)}):
            both = f"both {stable} and {candidate}" if stable else candidate
            raise FencedError(f"route {self.name} no longer names {both}; its backends were changed by hand")
        for rule, weights in zip(rules, self.weights(candidate), strict=True):
            copies = shift.mirrored and self.mirrors_by_filter
            if copies != (mirror_name(candidate) in _copies(self._rules[rule])):
                raise FencedError(f"route {self.name}: what rule {rule} copies to {candidate} was changed by hand")
            ours = _weights(self._divided(shift), claim, self._whole(rule))
            if {name: weight for name, weight in weights.items() if weight or name in ours} != ours:
                raise FencedError(
                    f"route {self.name} has the weights {weights}, and the last shift set {ours}; they were"
                    " changed by hand"
                )

    def shift_patch(self, claim: Claim, shift: Shift) -> Patch:
        """Return the part of a shift that sets the weights, while backends and weights are as they were read."""
        return [
            *self.unchanged_tests(claim.candidate),
            *self._set_weights(self._reached(claim.candidate), claim, shift),
        ]

    def unchanged_tests(self, candidate: str) -> Patch:
        """Return tests that fail as soon as any backend or weight is not as it was read."""
        return [test_op(_backends(rule), _refs(self._rules[rule])) for rule in self.rules_with(candidate)]

    def is_whole(self, claim: Claim) -> bool:
        """Whether the stable has all traffic; without one, whether the candidate has none."""
        if self.mirrors_to(claim.candidate):
            return False
        if not claim.stable:
            return not self.serves(claim.candidate)
        return all(self._served(rule) == {claim.stable} for rule in self.rules_with(claim.candidate))

    def restore_patch(self, claim: Claim, *, for_good: bool) -> Patch:
        """Return the part that gives the stable all weight, in each rule that names it.

        It tests the backends' names alone: a rollback does not care what the weights have become.
        """
        rules = self._returnable(claim)
        names = [
            test_op(f"{_backends(rule)}/{index}/name", backend.name)
            for rule in rules
            for index, backend in enumerate(self.backends(rule))
        ]
        return [*names, *self._set_weights(rules, claim, NO_SHARE, for_good=for_good)]

    def has_foreign_rule(self, claim: Claim) -> bool:
        """Whether a rule sends requests, or copies of them, to the candidate, and does not name the stable."""
        theirs, ours = {claim.candidate, mirror_name(claim.candidate)}, self._returnable(claim)
        others = [rule for rule in self._reached(claim.candidate) if rule not in ours]
        return any(theirs & {*self._served(rule), *_copies(self._rules[rule])} for rule in others)

    def _returnable(self, claim: Claim) -> list[int]:
        """Return the indices of the rules in which the stable could serve instead; without one, those of all rules."""
        reached = self._reached(claim.candidate)
        return [rule for rule in reached if rule in self.rules_with(claim.stable)] if claim.stable else reached

    def reclaim_patch(self, claim: Claim) -> Patch:
        """Return the part that writes the stable into the rules again.

        Later deployments that came to nothing have left other backends.
        """
        stable, candidate = claim.stable, claim.candidate
        patch = self.unchanged_tests(candidate)
        for rule in self.rules_with(candidate):
            (mine,) = (ref for ref in _refs(self._rules[rule]) if ref["name"] == candidate)
            back = [{**mine, "name": stable, "weight": self._whole(rule)}] if stable else []
            both = [*back, {**mine, "weight": 0}, *self._others(rule, claim)]
            patch.append({"op": "replace", "path": _backends(rule), "value": both})
        return patch

    def detach_patch(self, version: str) -> Patch:
        """Return the part that takes the last of its weight from a version that gets no traffic, as its pods end."""
        patch: Patch = []
        for rule in self.rules_with(version):
            for index, backend in enumerate(self.backends(rule)):
                if backend.name == version and backend.weight:
                    path = f"{_backends(rule)}/{index}"
                    patch += [test_op(f"{path}/name", version), {"op": "replace", "path": f"{path}/weight", "value": 0}]
        return patch

    def _reached(self, candidate: str) -> list[int]:
        """Return the indices of the rules by which requests, or copies of them, may come to the candidate."""
        return sorted({*self.rules_with(candidate), *self._mirroring(mirror_name(candidate))})

    def _divided(self, shift: Shift) -> Shift:
        """Return what of a shift the weights give: of copies by a filter nothing."""
        return NO_SHARE if shift.mirrored and self.mirrors_by_filter else shift

    def _set_weights(self, rules: list[int], claim: Claim, shift: Shift, *, for_good: bool = False) -> Patch:
        """Return what gives each backend its weight, and puts the mirror into the rules or takes it out of them."""
        patch: Patch = []
        for rule in rules:
            weights = _weights(self._divided(shift), claim, self._whole(rule), for_good=for_good)
            patch += [
                {"op": "replace", "path": f"{_backends(rule)}/{index}/weight", "value": weights.get(backend.name, 0)}
                for index, backend in enumerate(self.backends(rule))
                # Backends that serve beside a first version are not ours to stop.
                if claim.stable or backend.name == claim.candidate
            ]
            patch += (
                self._mirrored(rule, claim.candidate, shift)
                if shift.mirrored
                else self._unmirrored(rule, claim.candidate)
            )
        return patch

    def _mirrored(self, rule: int, candidate: str, shift: Shift) -> Patch:
        """Return what lets a rule copy requests to the candidate."""
        if not self.mirrors_by_filter:
            return [{"op": "add", "path": f"{_backends(rule)}/-", "value": mirror_ref(candidate, shift.share)}]
        (port,) = {ref["port"] for ref in _refs(self._rules[rule]) if ref["name"] == candidate}
        copies = mirror_filter(candidate, port, shift.share)
        there = self._rules[rule].get("filters")
        path, value = (f"{_filters(rule)}/-", copies) if there else (_filters(rule), [copies])
        return [{"op": "add", "path": path, "value": value}]

    def _unmirrored(self, rule: int, candidate: str) -> Patch:
        """Return what takes the mirror out, from the last to the first: what is behind one that goes moves up."""
        mirror = mirror_name(candidate)
        named = [index for index, backend in enumerate(self.backends(rule)) if backend.name == mirror]
        patch: Patch = [{"op": "remove", "path": f"{_backends(rule)}/{index}"} for index in reversed(named)]
        copies = [
            (index, item)
            for index, item in enumerate(self._rules[rule].get("filters") or [])
            if mirror in _copied(item)
        ]
        for index, item in reversed(copies):
            patch += [test_op(path := f"{_filters(rule)}/{index}", item), {"op": "remove", "path": path}]
        return patch


OUR_MIRROR_NAME = rf".+-[0-9a-f]{{7}}-[0-9]{{1,12}}{MIRROR_SUFFIX}"
"""What our mirrors are called."""
OUR_BACKEND_NAME = rf".+-[0-9a-f]{{7}}-[0-9]{{1,12}}({MIRROR_SUFFIX})?"
"""What our versions and mirrors are called."""


def mirror_filter(candidate: str, port: int, share: int) -> dict[str, Any]:
    """Return the standard filter that copies ``share`` % of a rule's requests to the candidate's mirror."""
    to = {"kind": "Service", "name": mirror_name(candidate), "port": port}
    return {"type": "RequestMirror", "requestMirror": {"backendRef": to, "percent": share}}


def _copies(rule: Mapping[str, Any]) -> list[str]:
    """Return to whom a rule's filters copy requests."""
    return [name for item in rule.get("filters") or [] for name in _copied(item)]


def _copied(item: Mapping[str, Any]) -> list[str]:
    ref = (item.get("requestMirror") or {}).get("backendRef") or {}
    return [ref["name"]] if "name" in ref else []


def _refs(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    return rule.get("backendRefs") or []


def _redirects(rule: Mapping[str, Any]) -> bool:
    return any(item.get("type") == "RequestRedirect" for item in rule.get("filters") or [])


def _names(part: Any, service: str) -> bool:
    if isinstance(part, dict):
        return part.get("name") == service or any(_names(value, service) for value in part.values())
    return isinstance(part, list) and any(_names(value, service) for value in part)


def mirror_ref(candidate: str, weight: int) -> dict[str, Any]:
    """Return the backend that answers as the stable does, and copies to the candidate."""
    return {"group": "traefik.io", "kind": "TraefikService", "name": mirror_name(candidate), "weight": weight}


def _weights(shift: Shift, claim: Claim, whole: int, *, for_good: bool = False) -> dict[str, int]:
    """Return the weights that a shift gives; without a stable, no version has the rest.

    The mirror answers as the stable does; it is in the route only while it has a weight.

    :param whole: what they come to.
    :param for_good: whether the pods of the version without traffic are about to end.
    """
    stable, candidate = claim.stable, claim.candidate
    if not stable:
        return {candidate: shift.share}
    least = 1 if whole == FINE_TOTAL_WEIGHT and not for_good else 0
    share = shift.share * whole // 100
    if shift.mirrored:
        return {candidate: 0, mirror_name(candidate): share, stable: whole - share}
    share = min(max(share, least), whole - least)
    return {candidate: share, stable: whole - share}


def _backends(rule: int) -> str:
    return f"/spec/rules/{rule}/backendRefs"


def _filters(rule: int) -> str:
    return f"/spec/rules/{rule}/filters"
