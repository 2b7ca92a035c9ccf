"""The kill matrix: what must happen in each of its cells, written down before anything is killed, and what did happen.

A cell is a component that is killed and the state that a deployment is in at that moment. In every cell the route is
whole afterwards, no workload is left behind, and the audit trail is legal; a cell says besides how the run may end, and
for how long users may have been sent to a candidate without a look at its metrics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STATES = (
    "BUILDING",
    "DEPLOYING",
    "CANARY 5 %",
    "CANARY 25 %",
    "CANARY 50 %",
    "CANARY 100 %",
    "PROMOTING",
    "ROLLING_BACK",
    "VERIFYING",
)
LEASE = 45.0
"""Seconds of the default Lease."""
GUARDED = LEASE + 10.0
"""Seconds: the Lease, and what the guard and the gateway need to act on it."""
DEAF = 60.0
"""Seconds after which a gateway that has lost the API server asks it again, at most. Until then it goes on by what it
knows, without later writes."""
WATCHED = 20.0
"""Seconds between two looks at most if nothing stops them: one a second is due, and the machine is a small one."""

HELD = frozenset({"VERIFIED"})
BACK = frozenset({"ROLLED_BACK"})
EITHER = HELD | BACK


@dataclass(frozen=True)
class Death:
    """What the death of one component may lead to.

    :param away: seconds until it is started again.
    :param ended: how a run may end whose candidate has traffic; ``early``: one whose candidate has none yet.
    :param unwatched: seconds for which users may be sent to a candidate without a look at its metrics.
    :param loses: whether it takes users' requests with it.
    :param why: the explanation for an operator.
    """

    ended: frozenset[str]
    unwatched: float
    why: str
    early: frozenset[str] = HELD
    away: float = 20.0
    loses: bool = False


DEATHS = {
    "scheduler": Death(
        HELD,
        WATCHED,
        "Its tasks die with it and are tried again; looks go on in the triggerer, and events wait for it.",
    ),
    "triggerer": Death(
        EITHER,
        GUARDED,
        "There are no looks until it is back; its triggers are rebuilt and go on. If that takes longer than the Lease,"
        " the guard returns the traffic.",
    ),
    "worker": Death(HELD, WATCHED, "The task is tried again, and repeats nothing that is done."),
    "api-server": Death(
        HELD, WATCHED, "Looks go on. Tasks that start meanwhile fail before they reach our code, and are tried again."
    ),
    "dag-processor": Death(HELD, WATCHED, "Nothing: a run's plan is frozen when it begins."),
    "postgres": Death(
        EITHER,
        GUARDED,
        "Scheduler, triggerer and dag-processor die and are started again; looks stop for up to 50 s, so the guard may"
        " return the traffic.",
    ),
    "prometheus": Death(HELD, WATCHED, "Looks are BLIND: nothing is raised and nothing rolled back until it answers."),
    "gateway": Death(
        EITHER,
        WATCHED,
        "Here its data plane dies too: users are lost by the gateway, looks are BLIND, its counters begin anew.",
        loses=True,
    ),
    "kube-apiserver": Death(
        EITHER,
        GUARDED + DEAF,
        "Traffic stays as it is. Looks are BLIND and can renew no Lease; the guard counts only time in which it can see"
        " the Lease itself. The gateway hears of what is written afterwards up to a minute later.",
        early=EITHER,
    ),
    "kubelet": Death(HELD, WATCHED, "Pods run on; none becomes ready or ends before it is back."),
    "airflow": Death(
        BACK,
        GUARDED,
        "The guard returns the traffic when the Lease has expired; the run finds that done when Airflow is up again.",
        early=EITHER,
        away=90.0,
    ),
}


@dataclass(frozen=True)
class Cell:
    """The expected outcome of a cell."""

    ended: frozenset[str]
    unwatched: float
    loses: bool


def must(component: str, state: str) -> Cell:
    """Return the expected outcome if ``component`` dies while a deployment is in ``state``."""
    death = DEATHS[component]
    ended = death.early if state in ("BUILDING", "DEPLOYING") else death.ended
    if state == "ROLLING_BACK":
        ended = BACK
    if state == "BUILDING" and "ROLLED_BACK" in ended:  # nothing is deployed yet: the run may end without a deployment
        ended |= {"REJECTED"}
    return Cell(ended, death.unwatched, death.loses)


@dataclass(frozen=True)
class Row:
    """The outcome of one cell.

    :param ended: the state in which the audit trail ends; ``none`` if there is none.
    :param route_whole: one version has all traffic, and it is the one that the end says.
    :param orphans: workloads that run without being needed.
    :param audit_legal: the audit trail is a path through the state machine, and its verdicts follow from its evidence.
    :param unwatched_s: how long ago the last look was, at most, when the candidate answered a user; None if the
        candidate had no traffic, and infinite if no look was completed.
    :param seconds: from the kill to the run's end.
    :param lost: how many users got no answer, or one of 500 or more, from the kill on.
    """

    component: str
    state: str
    ended: str
    route_whole: bool
    orphans: tuple[str, ...]
    audit_legal: bool
    unwatched_s: float | None
    seconds: float
    lost: int

    @property
    def broken(self) -> list[str]:
        """Deviations from the expected outcome."""
        cell = must(self.component, self.state)
        rules = {
            f"ended {self.ended}, not {' or '.join(sorted(cell.ended))}": self.ended in cell.ended,
            "the route is not whole": self.route_whole,
            f"left behind: {', '.join(self.orphans)}": not self.orphans,
            "the audit trail is not legal": self.audit_legal,
            f"unwatched for {self.unwatched_s} s": (self.unwatched_s or 0.0) <= cell.unwatched,
            f"{self.lost} requests lost": cell.loses or not self.lost,
        }
        return [rule for rule, kept in rules.items() if not kept]

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "orphans": list(self.orphans), "broken": self.broken}


def load(data: dict[str, Any]) -> Row:
    """Return what ``dump`` made."""
    known = {name: value for name, value in data.items() if name != "broken"}
    return Row(**{**known, "orphans": tuple(data["orphans"])})


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Return the outcomes as a Markdown table: how each run ended and when, deviations in bold."""
    yield f"| killed | {' | '.join(STATES)} |"
    yield "|---" * (len(STATES) + 1) + "|"
    for component in DEATHS:
        found = {row.state: row for row in rows if row.component == component}
        if found:
            yield f"| {component} | {' | '.join(_shown(found.get(state)) for state in STATES)} |"


def _shown(row: Row | None) -> str:
    if row is None:
        return "not run"
    unwatched = "" if row.unwatched_s is None else f", {row.unwatched_s:.0f} s unwatched"
    said = f"{row.ended} in {row.seconds:.0f} s{unwatched}"
    return f"**{said}: {'; '.join(row.broken)}**" if row.broken else said
