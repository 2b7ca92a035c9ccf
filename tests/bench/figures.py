"""The pictures and the numbers of docs/concepts/judgement.md, by the shipped code: ``make figures``.

The traffic is drawn from fixed seeds, so that the pictures stay as they are until the code changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.judge import ALPHA
from airflow_deploy.domain.analysis.sequential import EProcess, Starts, log_threshold, trials_needed, upper_bound
from airflow_deploy.domain.config.gates import GATES
from tests.stack.layout import CHECKOUT

FOLDER = CHECKOUT / "docs/concepts"
SCRAPE, PER_SECOND = 5, 50
THRESHOLD = float(log_threshold(ALPHA / sum(gate.counted for gate in GATES.values())))
GOOD, BAD = 0.002, 0.05
LIMITS, SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05), (25, 50, 100)
EXAMPLE, RUNS = 10, 2000

# Okabe and Ito's colours: eyes that do not tell red from green tell these.
ORANGE, BLUE, GREEN, VERMILION, GREY = "#c77f00", "#0072b2", "#007a5a", "#c04a00", "#555555"


class Stage(NamedTuple):
    """Some scrapes at one share, in which each version fails at one rate."""

    scrapes: int
    share: int
    mine: float
    control: float = GOOD


class Scrape(NamedTuple):
    """What each version answered since the scrape before."""

    at: int
    share: int
    requests: Any
    bad: Any
    control_requests: Any
    control_bad: Any


def drawn(seed: int, *stages: Stage, runs: int | None = None) -> Iterator[Scrape]:
    """Draw the traffic of one deployment, or of many at once."""
    rng, at = np.random.default_rng(seed), 0
    for stage in stages:
        for _ in range(stage.scrapes):
            at += SCRAPE
            requests = rng.binomial(PER_SECOND * SCRAPE, stage.share / 100, runs)
            control = PER_SECOND * SCRAPE - requests
            bad, control_bad = rng.binomial(requests, stage.mine), rng.binomial(control, stage.control)
            yield Scrape(at, stage.share, requests, bad, control, control_bad)


class Evidence:
    """One gate's evidence of harm, as the judge computes it if bad requests do not cluster."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._harm, self._starts = EProcess(shape), Starts(shape)

    def after(self, seen: Scrape) -> Any:
        self._harm.start(self._starts.at(seen.at, seen.share))
        self._harm.compare(seen.bad, seen.requests, seen.control_bad, seen.control_requests)
        return self._harm.log_e


def until_stopped(scrapes: Iterator[Scrape]) -> Iterator[tuple[Scrape, float]]:
    """Yield each scrape with the evidence so far, up to the one that brings the alarm."""
    evidence = Evidence()
    for seen in scrapes:
        log_e = float(evidence.after(seen))
        yield seen, float(np.exp(log_e))
        if log_e >= THRESHOLD:
            return


def harmed_before_the_stop(rate: float) -> tuple[float, float, float]:
    """Return the median seconds, and the mean and median of failed requests, at 5 % of the traffic."""
    evidence, harmed, stopped_at = Evidence((RUNS,)), np.zeros(RUNS), np.full(RUNS, np.inf)
    for seen in drawn(0, Stage(3600 // SCRAPE, 5, rate), runs=RUNS):
        going = np.isinf(stopped_at)
        harmed += seen.bad * going
        stopped_at[going & (evidence.after(seen) >= THRESHOLD)] = seen.at
        if np.all(np.isfinite(stopped_at)):
            break
    return float(np.median(stopped_at)), float(harmed.mean()), float(np.median(harmed))


def numbers() -> None:
    """Print the page's tables."""
    print(f"alarm at evidence {np.exp(THRESHOLD):.0f}\n")
    failed = 0
    for seen, evidence in until_stopped(drawn(EXAMPLE, Stage(60, 5, BAD))):
        failed += seen.bad
        print(f"| {seen.at} s | {seen.requests} | {seen.bad} | {seen.control_requests} | {seen.control_bad} |"
              f" {evidence:.3g} |")  # fmt: skip
    print(f"\n{failed} harmed\n")
    for bad in (1, 2, 3):
        log_e = Evidence().after(Scrape(SCRAPE, 5, 12, bad, 238, 0))
        print(f"{bad} of 12 failed, 0 of 238 of the stable's: {np.exp(log_e):.3g}")
    print()
    for rate in (0.02, BAD, 0.2, 1.0):
        seconds, mean, median = harmed_before_the_stop(rate)
        print(f"| {rate:.0%} | {seconds:.0f} s | {median:.0f} | {mean:.1f} |")
    print()
    for limit in LIMITS:
        needed = [f"{trials_needed(0, limit / (share / 100), BETA):,}" for share in SHARES]
        print(f"| {limit * 100:g} % | {' | '.join(needed)} |")


def axes(rows: int = 1, height: float = 3.6, **options: Any) -> Any:
    _, made = plt.subplots(rows, figsize=(7, height), layout="constrained", **options)
    return made


def save(name: str) -> None:
    plt.savefig(FOLDER / f"{name}.png", dpi=180, metadata={"Software": None})
    plt.close()


def show_evidence(on: Axes, top: float) -> None:
    on.set(yscale="log", ylim=(0.1, top), ylabel="evidence of harm")
    on.set_yticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1,000"])
    on.minorticks_off()
    on.axhline(np.exp(THRESHOLD), color=GREY, linestyle="--", linewidth=1)


def show_stages(on: Axes, stages: Sequence[tuple[int, int, int]]) -> None:
    for since, until, share in stages:
        on.axvline(since, color="#cccccc", linewidth=0.8, zorder=0)
        on.text((since + until) / 2, 1.02, f"{share} % of traffic", transform=on.get_xaxis_transform(), ha="center",
                color=GREY)  # fmt: skip


def evidence_picture() -> None:
    """A candidate that is bad at once, one that turns bad late, and a healthy one."""
    stages = [(0, 60, 5), (60, 120, 25), (120, 180, 50)]
    healthy = [Stage(12, share, GOOD) for *_, share in stages]
    early = [Stage(12, 5, BAD)]
    late = [*healthy[:2], Stage(2, 50, GOOD), Stage(10, 50, BAD)]
    on = axes()
    show_evidence(on, 5000)
    show_stages(on, stages)
    lines = [
        ("fails 5 % from the start:\ntaken back after {at} s", EXAMPLE, early, VERMILION, "o", (38, 1100, "left")),
        ("fails 5 % from 130 s on:\ntaken back after {at} s", 3, late, ORANGE, "s", (133, 30, "right")),
        ("healthy: as good as the stable", 4, healthy, BLUE, ".", (62, 0.16, "left")),
    ]
    for text, seed, traffic, color, marker, (x, y, side) in lines:
        points = [(seen.at, evidence) for seen, evidence in until_stopped(drawn(seed, *traffic))]
        on.plot(*zip((0, 1.0), *points, strict=True), color=color, marker=marker, markersize=4, linewidth=1.6)
        on.text(x, y, text.format(at=points[-1][0]), color=color, ha=side, va="center")
    on.text(178, 340, "alarm at 300", color=GREY, ha="right")
    on.set_xlim(0, 180)
    on.set_xlabel("seconds since the first shift (a scrape every 5 s, 50 requests/s)")
    save("evidence")


def health_picture() -> None:
    """What a share could cost after so many good requests."""
    trials = np.unique(np.geomspace(10, 1000, 200).round())
    limit, on = GATES["error_rate"].default, axes()
    worst = upper_bound(np.zeros_like(trials), trials, BETA)
    for share, color in zip(SHARES, (GREEN, ORANGE, BLUE), strict=True):
        cost, needed = worst * share, int(trials_needed(0, limit / (share / 100), BETA))
        on.plot(trials, cost, color=color, linewidth=1.8)
        on.plot([needed, needed], [0.1, limit * 100], ":", color=color, linewidth=1)
        on.plot(needed, limit * 100, "o", color=color, markersize=7)
        on.annotate(f"{needed} good", (needed, 0.1), (4, 6), textcoords="offset points", color=color)
        on.annotate(f"{share} % next", (trials[-1], cost[-1]), (5, -3), textcoords="offset points", color=color)
    on.axhline(limit * 100, color=GREY, linestyle="--", linewidth=1)
    on.text(10.6, limit * 100 * 1.12, "limit: 1 % of all requests", color=GREY)
    on.set(xscale="log", yscale="log", xlim=(10, 1000), ylim=(0.1, 50))
    on.set_xlabel("requests that the candidate has answered, all of them good")
    on.set_ylabel("what that share could cost\n(failing, of all requests)")
    on.set_xticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1,000"])
    on.set_yticks([0.1, 1, 10], ["0.1 %", "1 %", "10 %"])
    on.minorticks_off()
    save("health")


def outage_picture() -> None:
    """An outage that both versions share."""
    stages = [Stage(12, 25, GOOD), Stage(12, 25, 0.3, 0.3), Stage(12, 25, GOOD)]
    seen = list(drawn(7, *stages))
    evidence = Evidence()
    grown = [float(np.exp(evidence.after(item))) for item in seen]
    rates, below = axes(2, 4.4, sharex=True)
    at = [item.at for item in seen]
    failing = [100 * item.bad / item.requests for item in seen]
    control_failing = [100 * item.control_bad / item.control_requests for item in seen]
    rates.plot(at, failing, color=VERMILION, marker="o", markersize=4)
    rates.plot(at, control_failing, color=BLUE, marker="s", markersize=3)
    rates.set_ylabel("failing requests (%)")
    rates.set_ylim(0, 60)
    rates.text(3, 50, "candidate, 25 % of traffic", color=VERMILION)
    rates.text(3, 42, "stable, 75 % of traffic", color=BLUE)
    rates.text(90, 50, "a shared database\nfails for a minute", color=GREY, ha="center", va="center")
    show_evidence(below, 3000)
    below.plot(at, grown, color=VERMILION, marker="o", markersize=4)
    below.text(3, 380, "alarm at 300", color=GREY)
    below.text(178, 0.9, "evidence against the candidate", color=VERMILION, ha="right")
    below.set_xlim(0, 180)
    below.set_xlabel("seconds")
    save("outage")


if __name__ == "__main__":
    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    numbers()
    for picture in (evidence_picture, health_picture, outage_picture):
        picture()
