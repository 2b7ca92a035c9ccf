"""The HTTPRoute as a fenced record: who owns it, how far it has shifted, and the JSON Patches that change it.

The route is the team's. Weights change only by patches that first ``test`` the owner, the phase and the backends' names
(and, when raising, their present weights), so that a task that was overtaken changes nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_deploy.domain.errors import FencedError, RefusedError
from airflow_deploy.domain.names import mirror_name

PREFIX = "airflow-deploy"
OWNER, PHASE, SHIFTS, WORD = f"{PREFIX}/owner", f"{PREFIX}/phase", f"{PREFIX}/shifts", f"{PREFIX}/word"
VERSIONS = f"{PREFIX}/versions"
STOPPED = f"{PREFIX}/stopped"

CANARY, BRAKED, PROMOTED, VERIFIED = "canary", "braked", "promoted", "verified"
SETTLED, ABANDONED = "settled", "abandoned"
"""Phases: traffic may rise; the watch took it back; the candidate is the stable, and has been looked at since; a
rollback is complete; a person must look, since somebody changed the route under the deployment."""

WATCHED = frozenset({CANARY, PROMOTED})
"""Phases in which somebody must look, and renews the Lease."""
UNDER_WAY = frozenset({CANARY, BRAKED, PROMOTED})
AT_REST = frozenset({None, VERIFIED, SETTLED})
"""Phases in which a run has something to do, and in which none has; None before the first claim."""

PORT = 80
"""Of a Service that no route has named yet: of a service's first version."""

GARBLED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading an annotation that somebody wrote over may raise."""

Patch = list[dict[str, Any]]


@dataclass(frozen=True)
class Backend:
    """One backend of the route's rules; ``weight`` is relative."""

    name: str
    weight: int


@dataclass(frozen=True)
class Shift:
    """From ``at`` (unix seconds) on, ``share`` % of traffic was the candidate's; where ``mirrored``, as copies."""

    share: int
    at: float
    mirrored: bool = False

    @property
    def counted(self) -> float:
        """The candidate's share in % of the requests that are counted: a copy is one more of them."""
        return round(100 * self.share / (100 + self.share), 2) if self.mirrored else self.share

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"share": self.share, "at": self.at, **({"mirrored": True} if self.mirrored else {})}

    def weights(self, stable: str, candidate: str) -> dict[str, int]:
        """Return the weights that it gives; without a stable, which has an empty name then, nobody has the rest.

        Who answers by the mirror is the stable; it stands in the route only while it has a weight.
        """
        rest = {stable: 100 - self.share} if stable else {}
        given = {candidate: 0, mirror_name(candidate): self.share} if self.mirrored else {candidate: self.share}
        return given | rest


@dataclass(frozen=True)
class Route:
    """What an HTTPRoute says, as read at ``resource_version``. ``body`` is the object itself."""

    body: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.body['metadata']['namespace']}/{self.body['metadata']['name']}"

    @property
    def is_there(self) -> bool:
        """Whether the cluster has it."""
        return "resourceVersion" in self.body["metadata"]

    @property
    def annotations(self) -> Mapping[str, str]:
        """The object's annotations."""
        return self.body["metadata"].get("annotations") or {}

    @property
    def owner(self) -> str | None:
        """``<DEP-id>/<epoch>`` of the latest claim, None before the first."""
        return self.annotations.get(OWNER)

    @property
    def epoch(self) -> int:
        """How often the route was claimed."""
        tail = (self.owner or "").rpartition("/")[2]
        return int(tail) if re.fullmatch("[0-9]+", tail) else 0

    @property
    def phase(self) -> str | None:
        """The latest claim's phase, None before the first claim."""
        return self.annotations.get(PHASE)

    @property
    def shifts(self) -> list[Shift]:
        """The owner's shifts, oldest first.

        :raises FencedError: somebody else has written the annotation.
        """
        try:
            recorded = json.loads(self.annotations.get(SHIFTS, "[]"))
            return [Shift(int(i["share"]), float(i["at"]), i.get("mirrored", False) is True) for i in recorded]
        except GARBLED as error:
            raise FencedError(f"route {self.name}: somebody changed the annotation {SHIFTS}") from error

    @property
    def stopped(self) -> str | None:
        """The version before the one that serves, once its window is over and nobody may return to it any more."""
        return self.annotations.get(STOPPED)

    @property
    def word(self) -> str | None:
        """What the brake left for whoever finds the route braked."""
        return self.annotations.get(WORD)

    @property
    def versions(self) -> tuple[str, str]:
        """The owner's stable, empty where there was none, and candidate, as its claim has named them.

        :raises FencedError: somebody else has written the annotation, or the claim is of a version that wrote none.
        """
        try:
            named = json.loads(self.annotations[VERSIONS])
            stable, candidate = named["stable"], named["candidate"]
        except GARBLED as error:
            raise FencedError(f"route {self.name}: the annotation {VERSIONS} does not name two versions") from error
        return str(stable), str(candidate)

    def owned_by(self, deployment_id: str) -> bool:
        """Whether the latest claim is this deployment's."""
        return (self.owner or "").rpartition("/")[0] == deployment_id

    def rules_with(self, service: str) -> list[int]:
        """Return the indices of the rules that name ``service`` as a backend."""
        return [i for i, rule in enumerate(self._rules) if any(b["name"] == service for b in _refs(rule))]

    def backends(self, rule: int) -> list[Backend]:
        """Return one rule's backends."""
        return [Backend(ref["name"], ref.get("weight", 1)) for ref in _refs(self._rules[rule])]

    def weights(self, service: str) -> list[dict[str, int]]:
        """Return, for each rule that names ``service``, the weights of all its backends by name."""
        return [{b.name: b.weight for b in self.backends(rule)} for rule in self.rules_with(service)]

    def serves(self, service: str) -> bool:
        """Whether ``service`` gets any traffic."""
        return any(weights[service] > 0 for weights in self.weights(service))

    def copies_to(self, candidate: str) -> bool:
        """Whether requests are copied to ``candidate``; whoever sent them is answered by the stable."""
        return bool(self.rules_with(mirror_name(candidate)))

    def mentions(self, service: str) -> bool:
        """Whether ``service`` is named anywhere in the rules, by a filter that mirrors requests, say."""
        return _names(self._rules, service)

    @property
    def _rules(self) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = self.body["spec"].get("rules") or []
        return rules

    @property
    def named(self) -> list[str]:
        """All backends of all rules, whatever their weights."""
        return sorted({b.name for i in range(len(self._rules)) for b in self.backends(i)})

    def serving(self) -> str:
        """Return the one Service that serves now; an empty name where nobody does.

        :raises RefusedError: several share the traffic unasked, or a rule names it twice.
        """
        serving = sorted({b.name for i in range(len(self._rules)) for b in self.backends(i) if b.weight > 0})
        if len(serving) > 1:
            raise self._unclear(" and ".join(serving))
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

    def filters(self, service: str) -> bool:
        """Whether requests or answers of ``service`` alone are changed on their way, by its backend's own filters."""
        return any(ref.get("filters") for rule in self._rules for ref in _refs(rule) if ref["name"] == service)

    def _unclear(self, found: str) -> RefusedError:
        remedy = "give one Service the whole weight before deploying"
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


def _refs(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    return rule.get("backendRefs") or []


def _redirects(rule: Mapping[str, Any]) -> bool:
    return any(item.get("type") == "RequestRedirect" for item in rule.get("filters") or [])


def _names(part: Any, service: str) -> bool:
    if isinstance(part, dict):
        return part.get("name") == service or any(_names(value, service) for value in part.values())
    return isinstance(part, list) and any(_names(value, service) for value in part)


def _annotation(key: str) -> str:
    return "/metadata/annotations/" + key.replace("~", "~0").replace("/", "~1")


def _fence(route: Route, owner: str, phase: str) -> Patch:
    """Return the tests that every write of an owner begins with.

    :raises FencedError: what was read shows already that the tests would fail.
    """
    if route.owner != owner:
        raise FencedError(f"route {route.name} belongs to {route.owner or 'nobody'} now, not to {owner}")
    if route.phase != phase:
        raise FencedError(f"route {route.name} is {route.phase}, and this step needs it {phase}")
    return [_test(_annotation(OWNER), owner), _test(_annotation(PHASE), phase)]


def _side_by_side(route: Route, stable: str, candidate: str) -> None:
    """Check that the same rules name both versions.

    :raises FencedError: they do not.
    """
    rules = route.rules_with(candidate)
    if not rules or (stable and rules != route.rules_with(stable)):
        both = f"both {stable} and {candidate}" if stable else candidate
        raise FencedError(f"route {route.name} no longer names {both}; somebody changed its backends")


def _unchanged(route: Route, candidate: str) -> Patch:
    """Return tests that fail as soon as any backend or weight is not as it was read."""
    return [_test(_backends(rule), _refs(route.body["spec"]["rules"][rule])) for rule in route.rules_with(candidate)]


def _same_names(route: Route, candidate: str) -> Patch:
    """Return tests of the backends' names alone: a rollback does not care what the weights have become."""
    return [
        _test(f"{_backends(rule)}/{index}/name", backend.name)
        for rule in _reached(route, candidate)
        for index, backend in enumerate(route.backends(rule))
    ]


def mirror_ref(candidate: str, weight: int) -> dict[str, Any]:
    """Return the backend that answers as the stable does, and copies to the candidate."""
    return {"group": "traefik.io", "kind": "TraefikService", "name": mirror_name(candidate), "weight": weight}


def _reached(route: Route, candidate: str) -> list[int]:
    """Return the indices of the rules by which requests, or copies of them, may come to the candidate."""
    return sorted({*route.rules_with(candidate), *route.rules_with(mirror_name(candidate))})


def _set_weights(route: Route, stable: str, candidate: str, shift: Shift) -> Patch:
    """Return what gives each backend its weight, and puts the mirror into the rules or takes it out of them."""
    weights, mirror = shift.weights(stable, candidate), mirror_name(candidate)
    patch: Patch = []
    for rule in _reached(route, candidate):
        backends = list(enumerate(route.backends(rule)))
        patch += [
            {"op": "replace", "path": f"{_backends(rule)}/{index}/weight", "value": weights.get(backend.name, 0)}
            for index, backend in backends
            if stable or backend.name == candidate  # who else serves beside a first version is not ours to stop
        ]
        if shift.mirrored:
            patch.append({"op": "add", "path": f"{_backends(rule)}/-", "value": mirror_ref(candidate, shift.share)})
        else:  # from the last to the first: what is behind one that goes moves up
            named = [index for index, backend in reversed(backends) if backend.name == mirror]
            patch += [{"op": "remove", "path": f"{_backends(rule)}/{index}"} for index in named]
    return patch


def _backends(rule: int) -> str:
    return f"/spec/rules/{rule}/backendRefs"


def _test(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def _set(key: str, value: str) -> dict[str, Any]:
    return {"op": "add", "path": _annotation(key), "value": value}


def claim(route: Route, deployment_id: str, stable: str, candidate: str) -> tuple[str, Patch]:
    """Return the new owner and the patch that claims the route and adds the candidate with weight 0.

    Without a stable, which has an empty name then, the candidate is all that the rules name.

    A claim raises the epoch: whoever held the route before can write nothing any more. It is the one write that is
    fenced by the object's version, since it replaces the list of backends.

    :raises FencedError: the stable no longer serves alone, or is the candidate itself.
    :raises RefusedError: there is no stable, and no rule in which the candidate could serve.
    """
    if candidate == stable:
        raise FencedError(f"route {route.name}: {candidate} serves already; trigger a new run")
    if (serving := route.serving()) != stable:
        raise FencedError(
            f"route {route.name} is served by {serving or 'nobody'} now, not by {stable or 'nobody'} as when this run"
            " was planned"
        )
    owner = f"{deployment_id}/{route.epoch + 1}"
    patch: Patch = [_test("/metadata/resourceVersion", route.body["metadata"]["resourceVersion"])]
    if not route.annotations:
        patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    versions = json.dumps({"stable": stable, "candidate": candidate})
    patch += [_set(OWNER, owner), _set(PHASE, CANARY), _set(SHIFTS, "[]"), _set(WORD, "")]
    patch += [_set(STOPPED, ""), _set(VERSIONS, versions)]
    if not stable:
        alone = [{"kind": "Service", "name": candidate, "port": PORT, "weight": 0}]
        return owner, patch + [{"op": "add", "path": _backends(rule), "value": alone} for rule in route.vacant()]
    for rule in route.rules_with(stable):
        kept = [{**ref, "weight": 100} for ref in _refs(route.body["spec"]["rules"][rule]) if ref["name"] == stable]
        added = {**kept[0], "name": candidate, "weight": 0}  # with the same port and filters: it may become the stable
        patch.append({"op": "replace", "path": _backends(rule), "value": [*kept, added]})
    return owner, patch


def shift(
    route: Route, owner: str, stable: str, candidate: str, share: int, at: float, *, mirrored: bool = False
) -> Patch:
    """Return the patch that gives the candidate ``share`` %; empty where the route already does.

    :param mirrored: give it copies, while users are answered by the stable. It comes before all shares: a route that
        names a mirror serves nobody where what that copies to is gone, so the first share takes it out.
    :raises FencedError: another owner, another phase, other backends, or weights that nobody of us set.
    """
    fence = _fence(route, owner, CANARY)
    _side_by_side(route, stable, candidate)
    shifts = route.shifts
    last, following = shifts[-1] if shifts else Shift(0, at), Shift(share, at, mirrored)
    for weights in route.weights(candidate):
        if weights != (ours := last.weights(stable, candidate)):
            raise FencedError(
                f"route {route.name} has the weights {weights}, and the last shift set {ours}; somebody else set them"
            )
    if (last.share, last.mirrored) == (share, mirrored):
        return []
    if mirrored and (shifts or not stable):
        raise FencedError(
            f"route {route.name}: nothing is mirrored where the candidate has had a share, or no stable is"
        )
    recorded = json.dumps([item.dump() for item in [*shifts, following]])
    raised = _set_weights(route, stable, candidate, following)
    return [*fence, *_unchanged(route, candidate), *raised, _set(SHIFTS, recorded)]


def restore(route: Route, owner: str, stable: str, candidate: str, phase: str, word: str | None = None) -> Patch:
    """Return the patch that gives the stable all traffic and enters ``phase``; empty where that is so already.

    It does not test the present weights: whatever they are, the stable serves afterwards. Without a stable, the
    candidate serves nobody.

    :param word: why, for whoever finds the route so; None keeps what stands there.
    :raises FencedError: another owner, or a rule in which the stable could not take the candidate's traffic.
    """
    fence = _fence(route, owner, route.phase or "")
    if stable and not set(_reached(route, candidate)) <= set(route.rules_with(stable)):
        raise FencedError(f"route {route.name} has a rule that names {candidate} alone; somebody changed its backends")
    whole = not route.copies_to(candidate) and all(
        weight == (100 if name == stable else 0)
        for weights in route.weights(candidate)
        for name, weight in weights.items()
        if stable or name == candidate
    )
    if route.phase == phase and whole:
        return []
    lowered = _set_weights(route, stable, candidate, Shift(0, 0.0))
    said = [] if word is None else [_set(WORD, word)]
    return [*fence, *_same_names(route, candidate), *lowered, _set(PHASE, phase), *said]


def seize(route: Route, word: str) -> Patch:
    """Return the patch by which the guard takes back a deployment that nobody looks at.

    It claims the route in the deployment's own name: its run can raise nothing any more, and finds the word when it
    comes back. One write does both: there is no moment at which the route is claimed and the traffic where it was.

    :param word: why; it stays on the route.
    :raises FencedError: the route does not name both versions, or has a rule that names the candidate alone.
    """
    stable, candidate = route.versions
    deployment_id, _, _ = (route.owner or "").rpartition("/")
    patch = restore(route, route.owner or "", stable, candidate, BRAKED, word)
    return [*patch, _set(OWNER, f"{deployment_id}/{route.epoch + 1}")]


def reclaim(route: Route, deployment_id: str, stable: str, candidate: str, word: str) -> Patch:
    """Return the patch that takes a verified promotion back: it claims the route anew and gives the stable all traffic.

    One write does both: there is no moment at which the route is claimed and the traffic still where it was. Later
    deployments that came to nothing have left other backends, so the stable is written into the rules again.

    :param word: why; it stays on the route.
    :raises FencedError: the candidate's promotion is not what the route is at rest with.
    """
    if not at_rest(route, deployment_id, candidate):
        raise FencedError(f"route {route.name} is {route.phase} by {route.owner or 'nobody'}; nothing is taken back")
    # All annotations: whoever stops the stable for good says so there first, and one of the two comes too late.
    patch: Patch = [_test("/metadata/annotations", route.annotations)]
    patch += _unchanged(route, candidate)
    for rule in route.rules_with(candidate):
        (mine,) = (ref for ref in _refs(route.body["spec"]["rules"][rule]) if ref["name"] == candidate)
        back = [{**mine, "name": stable, "weight": 100}] if stable else []
        patch.append({"op": "replace", "path": _backends(rule), "value": [*back, {**mine, "weight": 0}]})
    owner = f"{deployment_id}/{route.epoch + 1}"
    # The shifts that stand there may be a later deployment's.
    return [*patch, _set(OWNER, owner), _set(PHASE, SETTLED), _set(SHIFTS, "[]"), _set(WORD, word)]


def at_rest(route: Route, deployment_id: str, candidate: str) -> bool:
    """Whether all traffic is this verified deployment's, and no other is under way.

    :raises RefusedError: several Services share the traffic: somebody else has set weights.
    """
    phase = VERIFIED if route.owned_by(deployment_id) else SETTLED
    # Without an owner nothing can be fenced: somebody has removed the annotation.
    return route.owner is not None and route.phase == phase and route.stable() == candidate


def stop(route: Route, version: str) -> Patch:
    """Return the patch that says that nobody may return to ``version`` any more; empty where nobody could."""
    if route.owner is None or route.stopped == version:
        return []
    return [_test("/metadata/annotations", route.annotations), _set(STOPPED, version)]


def promote(route: Route, owner: str, stable: str, candidate: str) -> Patch:
    """Return the patch that makes the candidate the stable; it already has all traffic. Empty where it is so already.

    :raises FencedError: another owner, a brake, or less than the full weight.
    """
    if route.owner == owner and route.phase == PROMOTED:
        return []
    fence = _fence(route, owner, CANARY)
    _side_by_side(route, stable, candidate)
    whole = Shift(100, 0.0).weights(stable, candidate)
    if any(weights != whole for weights in route.weights(candidate)):
        raise FencedError(f"route {route.name} does not give {candidate} all traffic; it cannot be promoted")
    return [*fence, *_unchanged(route, candidate), _set(PHASE, PROMOTED)]


def abandon(route: Route, owner: str) -> Patch:
    """Return the patch that says that this deployment touches the route no more, so that nobody waits for it.

    :raises FencedError: another owner.
    """
    if route.owner != owner:
        raise FencedError(f"route {route.name} belongs to {route.owner or 'nobody'} now")
    return [_test(_annotation(OWNER), owner), _set(PHASE, ABANDONED)]


def confirm(route: Route, owner: str) -> Patch:
    """Return the patch that marks a promotion as verified, so that nothing of its run takes it back any more.

    :raises FencedError: another owner, or a phase other than PROMOTED.
    """
    if route.owner == owner and route.phase == VERIFIED:
        return []
    if route.owner != owner or route.phase != PROMOTED:
        raise FencedError(f"route {route.name} is {route.phase} by {route.owner or 'nobody'}; it cannot be verified")
    return [_test(_annotation(OWNER), owner), _test(_annotation(PHASE), PROMOTED), _set(PHASE, VERIFIED)]


def absent(namespace: str, name: str) -> Route:
    """Return what stands for a route that is not there: nobody has it, and it sends nobody anywhere."""
    return Route({"metadata": {"namespace": namespace, "name": name}, "spec": {}})


GITOPS = ("argocd", "kustomize-controller", "helm-controller")


def gitops_managers(route: Route) -> list[str]:
    """Return the GitOps tools that own the route's rules and would set its weights back."""
    return [
        entry["manager"]
        for entry in route.body["metadata"].get("managedFields") or []
        if entry.get("manager", "").startswith(GITOPS) and "f:rules" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    ]
