"""Raw counters become increases, each exactly once, however queries overlap."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.metrics.counters import CounterReader, Counts, OwnSeries, Series
from airflow_deploy.domain.metrics.sources import SATURATION, SOURCES, saturation_query
from airflow_deploy.domain.names import promql_string
from tests.support.judgement import CANDIDATE, SCRAPE, STABLE
from tests.support.series import DURATION, REQUESTS, TRAEFIK, label, labels, poll, reader, requests, total


@st.composite
def histories(draw: st.DrawFn) -> list[Series]:
    """Counters of one gateway: some born later, some that start again at 0, all scraped at the same times."""
    scrapes = draw(st.integers(2, 12))
    found = []
    for service in (STABLE, CANDIDATE):
        for name, more in (
            (REQUESTS, {"code": "200"}),
            (REQUESTS, {"code": "503"}),
            (f"{DURATION}_count", {"code": "200"}),
            (f"{DURATION}_bucket", {"code": "200", "le": "0.5"}),
        ):
            born = 0 if service == STABLE and more["code"] == "200" else draw(st.integers(0, scrapes - 1))
            value = float(draw(st.integers(0, 1000)))
            samples = []
            for scrape in range(born, scrapes):
                samples.append((100 + SCRAPE * scrape, value))
                value = 0.0 if draw(st.integers(0, 9)) == 0 else value
                value += draw(st.integers(0, 50))
            found.append(Series(labels(name, service, **more), samples))
    return found


class TestCounterReader:
    @given(histories(), st.lists(st.floats(100, 170), max_size=8), st.integers(0, 40))
    def test_any_split_into_overlapping_polls_yields_the_same_ticks(
        self, history: list[Series], moments: list[float], overlap: int
    ) -> None:
        whole = reader().feed(history)
        piecewise, found = reader(), []
        for until in [*sorted(moments), 1000.0]:
            since = piecewise.seen_until - overlap
            found += piecewise.feed(poll(history, since, until))
        assert found == whole

    @given(histories(), st.randoms(use_true_random=False))
    def test_order_of_the_series_does_not_matter(self, history: list[Series], random: object) -> None:
        shuffled = list(reversed(history))
        assert reader().feed(shuffled) == reader().feed(history)

    @given(histories())
    def test_increases_are_never_negative_and_each_scrape_comes_once(self, history: list[Series]) -> None:
        ticks = reader().feed(history)
        assert all(before.at < after.at for before, after in pairwise(ticks))
        for tick in ticks:
            assert set(tick.counts) == {STABLE, CANDIDATE}
            for counts in tick.counts.values():
                assert min(counts.requests, counts.errors, counts.timed, *counts.within.values(), 0.0) >= 0

    @given(histories())
    def test_same_history_again_yields_no_ticks(self, history: list[Series]) -> None:
        again = reader()
        again.feed(history)
        until = again.seen_until
        assert again.feed(history) == []
        assert again.seen_until == until

    def test_value_at_the_first_scrape_does_not_count(self) -> None:
        ticks = reader().feed([requests(STABLE, (100, 5000), (105, 5010))])
        assert [tick.counts[STABLE].requests for tick in ticks] == [0, 10]

    def test_series_that_appears_later_starts_at_zero(self) -> None:
        history = [requests(STABLE, (100, 50), (105, 60)), requests(CANDIDATE, (105, 3), (110, 4), code="500")]
        ticks = reader().feed(history)
        assert total(ticks, CANDIDATE) == Counts(requests=4, errors=4)

    def test_series_starts_at_zero_only_if_its_own_gateway_was_scraped_before(self) -> None:
        history = [
            requests(STABLE, (100, 50), (110, 60)),
            requests(STABLE, (104, 7000), (114, 7001), instance="gateway-1"),
            requests(CANDIDATE, (104, 900), (114, 902), instance="gateway-1"),
        ]
        ticks = reader().feed(history)
        assert (total(ticks, STABLE).requests, total(ticks, CANDIDATE).requests) == (11, 2)

    def test_counter_reset_counts_the_requests_after_it(self) -> None:
        ticks = reader().feed([requests(STABLE, (100, 90), (105, 100), (110, 4), (115, 6))])
        assert [tick.counts[STABLE].requests for tick in ticks] == [0, 10, 4, 2]

    def test_gap_between_scrapes_loses_no_request(self) -> None:
        again = reader()
        again.feed([requests(STABLE, (100, 10))])
        ticks = again.feed([requests(STABLE, (160, 70))])
        assert total(ticks, STABLE).requests == 60

    def test_counts_add_up_over_status_codes_and_gateways(self) -> None:
        history = [
            requests(STABLE, (100, 0), (105, 10)),
            requests(STABLE, (100, 0), (105, 2), code="404"),
            requests(STABLE, (100, 0), (105, 3), code="500"),
            requests(STABLE, (100, 0), (105, 4), code="503", instance="gateway-1"),
        ]
        assert total(reader().feed(history), STABLE) == Counts(requests=19, errors=7)

    def test_histogram_yields_timed_and_slow_requests(self) -> None:
        history = [
            Series(labels(f"{DURATION}_count", STABLE, code="200"), [(100, 0), (105, 20)]),
            Series(labels(f"{DURATION}_bucket", STABLE, code="200", le="0.5"), [(100, 0), (105, 15)]),
            Series(labels(f"{DURATION}_bucket", STABLE, code="200", le="1.0"), [(100, 0), (105, 19)]),
        ]
        counts = total(reader().feed(history), STABLE)
        assert (counts.requests, counts.timed, counts.slow(0.5), counts.slow(1.0)) == (0, 20, 5, 1)

    @pytest.mark.parametrize(
        "service",
        [
            label("payments-canary"),
            label("other-payments"),
            label(STABLE, namespace="shop2"),
            label(STABLE, route="pay2"),
            label(STABLE) + "x",
            "x" + label(STABLE),
            label(STABLE).replace("-0@", "-x@"),
            "",
        ],
    )
    def test_series_of_other_services_do_not_count(self, service: str) -> None:
        other = Series({"__name__": REQUESTS, "service": service, "code": "500"}, [(100, 0), (105, 9)])
        assert reader().feed([other]) == []

    def test_empty_history_yields_no_ticks(self) -> None:
        assert reader().feed([]) == []
        assert reader().feed([Series(labels(REQUESTS, STABLE, code="200"), [])]) == []


class TestNewCandidate:
    """The candidate's name is as new as the deployment: its counters began at 0, seen early or late."""

    def reader(self) -> CounterReader:
        return CounterReader(TRAEFIK, "shop", "pay", (CANDIDATE, STABLE), newborn=CANDIDATE)

    def test_first_scrape_counts_in_full(self) -> None:
        ticks = self.reader().feed([requests(CANDIDATE, (100, 7), (105, 9)), requests(STABLE, (100, 500), (105, 520))])
        assert total(ticks, CANDIDATE) == Counts(requests=9)
        assert total(ticks, STABLE) == Counts(requests=20)

    def test_errors_in_the_first_scrape_count(self) -> None:
        ticks = self.reader().feed([requests(CANDIDATE, (100, 3), code="503")])
        assert total(ticks, CANDIDATE) == Counts(requests=3, errors=3)

    def test_first_scrape_counts_on_a_gateway_without_history(self) -> None:
        ready = self.reader()
        ready.feed([requests(STABLE, (100, 500))])
        ticks = ready.feed([requests(CANDIDATE, (105, 4), instance="gateway-1")])
        assert total(ticks, CANDIDATE) == Counts(requests=4)

    def test_first_scrape_counts_once_over_repeated_queries(self) -> None:
        ready = self.reader()
        first = ready.feed([requests(CANDIDATE, (100, 7))])
        again = ready.feed([requests(CANDIDATE, (100, 7), (105, 9))])
        assert total(first + again, CANDIDATE) == Counts(requests=9)

    def test_counter_reset_counts_from_zero(self) -> None:
        ticks = self.reader().feed([requests(CANDIDATE, (100, 7), (105, 2))])
        assert total(ticks, CANDIDATE) == Counts(requests=9)

    @given(histories(), st.integers(1, 12))
    def test_history_cut_anywhere_yields_the_same_counts(self, history: list[Series], cut: int) -> None:
        at = 100 + SCRAPE * cut
        early = [Series(item.labels, [s for s in item.samples if s[0] <= at]) for item in history]
        cut_up = self.reader()
        ticks = cut_up.feed(early) + cut_up.feed(history)
        assert total(ticks, CANDIDATE) == total(self.reader().feed(history), CANDIDATE)


class TestOwnGateCounters:
    """Counters of a team's own gate are of another target, and belong to the gateway's next scrape."""

    def own(self, role: str, *samples: tuple[float, float], service: str = CANDIDATE, pod: str = "a") -> OwnSeries:
        return OwnSeries("cards", role, service, Series({"pod": pod, "instance": pod}, samples))

    def test_increase_belongs_once_to_the_next_gateway_scrape(self) -> None:
        ready = CounterReader(TRAEFIK, "shop", "pay", (CANDIDATE, STABLE), newborn=CANDIDATE)
        gateway = [requests(STABLE, (100, 0), (105, 10), (110, 20))]
        early = [Series(item.labels, item.samples[:2]) for item in gateway]
        total_ = self.own("total", (101, 4), (103, 8), (107, 9))
        first = ready.feed(early, [self.own("bad", (103, 1)), total_])
        second = ready.feed(gateway, [self.own("bad", (103, 1), (108, 3)), total_])
        assert [tick.counts[CANDIDATE].pairs for tick in first] == [{}, {"cards": (1.0, 8.0)}]
        assert [tick.counts[CANDIDATE].pairs for tick in second] == [{"cards": (2.0, 1.0)}]

    def test_stables_first_value_does_not_count(self) -> None:
        own = [
            self.own("total", (100, 500), (104, 520), service=STABLE),
            self.own("bad", (104, 3), service=STABLE),
        ]
        ticks = reader().feed([requests(STABLE, (100, 0), (105, 10))], own)
        assert total(ticks, STABLE).pairs == {"cards": (3.0, 20.0)}

    def test_two_gates_may_count_the_same_series(self) -> None:
        same = Series({"pod": "a"}, [(100, 0), (104, 6)])
        own = [OwnSeries(gate, "total", CANDIDATE, same) for gate in ("cards", "carts")]
        ticks = reader().feed([requests(STABLE, (100, 0), (105, 10))], own)
        assert total(ticks, CANDIDATE).pairs == {"cards": (0.0, 6.0), "carts": (0.0, 6.0)}


class TestGaugesOfATick:
    def at(self, *samples: tuple[float, float]) -> float | None:
        (tick,) = reader().feed([requests(STABLE, (100, 0))], gauges={"memory": samples})
        return tick.gauges["memory"]

    def test_tick_has_the_gauges_value_of_its_time(self) -> None:
        assert self.at((98, 0.2), (99, 0.3), (101, 0.4), (102, 0.5)) == 0.4

    @pytest.mark.parametrize("samples", [[], [(90, 0.2)], [(102, 0.5)], [(100, float("nan"))], [(100, float("inf"))]])
    def test_gauge_without_a_valid_sample_is_unknown(self, samples: list[tuple[float, float]]) -> None:
        assert self.at(*samples) is None


class TestMissingSeries:
    def test_interval_is_that_of_the_slowest_target(self) -> None:
        ready = reader()
        assert ready.interval is None
        ready.feed([
            requests(STABLE, (100, 0), (102, 1), (104, 2), (110, 3)),
            requests(STABLE, (101, 0), (106, 1), (111, 3), instance="gateway-1"),
        ])  # fmt: skip
        assert ready.interval == 5

    def test_stopped_series_count_as_missing_for_a_minute(self) -> None:
        ready = reader()
        steady = [(100.0 + 5 * number, float(number)) for number in range(30)]
        other = [(at, value) for at, value in steady if at <= 150]
        series = [requests(STABLE, *steady), requests(STABLE, *other, code="503"), requests(CANDIDATE, *other)]
        ready.feed([Series(item.labels, [s for s in item.samples if s[0] <= 155]) for item in series])
        assert ready.silent == (0, 3)
        ready.feed([Series(item.labels, [s for s in item.samples if s[0] <= 170]) for item in series])
        assert ready.silent == (2, 3)
        ready.feed(series)
        assert ready.silent == (0, 1)

    def test_empty_history_misses_no_series(self) -> None:
        assert reader().silent == (0, 0)


class TestCounts:
    numbers = st.integers(0, 10**6).map(float)

    @given(numbers, numbers, numbers, st.dictionaries(st.sampled_from([0.1, 0.5, 1.0]), numbers))
    def test_adding_empty_counts_changes_nothing(
        self, a: float, b: float, c: float, within: dict[float, float]
    ) -> None:
        counts = Counts(a, b, c, within)
        assert counts + Counts() == counts == Counts() + counts

    @given(numbers, numbers)
    def test_slow_requests_are_never_negative(self, timed: float, within: float) -> None:
        assert Counts(timed=timed, within={0.5: within}).slow(0.5) == max(0, timed - within)


def matchers(selector: str) -> dict[str, str]:
    """Read ``{a=~"…",b=~"…"}`` back: label to pattern."""
    found = re.findall(r'([a-z_]+)=~"((?:[^"\\]|\\.)*)"', selector)
    return {name: re.sub(r"\\(.)", r"\1", pattern) for name, pattern in found}


class TestSelector:
    edges = (0.0005, 0.001953125, 0.1, 0.3, 0.5, 1.0, 2.5, 10.0, 600.0)

    def test_selector_matches_exactly_the_counters_of_both_versions(self) -> None:
        found = matchers(TRAEFIK.selector("shop", "pay", (CANDIDATE, STABLE), [0.5, 1.0]))
        assert set(found) == {"__name__", "service", "le"}
        for name in (REQUESTS, f"{DURATION}_count", f"{DURATION}_bucket"):
            assert re.fullmatch(found["__name__"], name)
        assert not re.fullmatch(found["__name__"], f"{DURATION}_sum")
        for service in (CANDIDATE, STABLE):
            assert re.fullmatch(found["service"], label(service))
        for other in (label("payments-x"), label(STABLE, namespace="prod"), label(STABLE, route="other")):
            assert not re.fullmatch(found["service"], other)

    @pytest.mark.parametrize("edge", edges)
    def test_selector_matches_both_spellings_of_an_edge_and_plain_counters(self, edge: float) -> None:
        pattern = matchers(TRAEFIK.selector("shop", "pay", (STABLE,), [edge]))["le"]
        assert re.fullmatch(pattern, "")
        assert re.fullmatch(pattern, repr(edge))
        assert re.fullmatch(pattern, repr(edge).removesuffix(".0"))
        for other in {*self.edges, 0.05, 11.0} - {edge}:
            assert not re.fullmatch(pattern, repr(other).removesuffix(".0"))
        assert not re.fullmatch(pattern, "+Inf")

    def test_selector_without_edges_matches_no_bucket(self) -> None:
        pattern = matchers(TRAEFIK.selector("shop", "pay", (STABLE,), []))["le"]
        assert re.fullmatch(pattern, "")
        assert not re.fullmatch(pattern, "0.5")

    def test_edges_query_covers_one_service(self) -> None:
        query = TRAEFIK.edges_query("shop", "pay", STABLE)
        assert query.startswith(f"group by (le) ({DURATION}_bucket{{")
        assert re.fullmatch(matchers(query)["service"], label(STABLE))
        assert not re.fullmatch(matchers(query)["service"], label(CANDIDATE))

    @given(st.text(alphabet='ab.-*"\\\n{}$', min_size=1), st.text(alphabet='ab.-*"\\\n{}$', min_size=1))
    def test_hostile_names_match_only_themselves(self, service: str, other: str) -> None:
        owner = TRAEFIK.service_of({"service": label(service)}, "shop", "pay", [service])
        assert owner == service
        selector = TRAEFIK.selector("shop", "pay", (service,), [])
        assert promql_string("")[:1] == '"'
        assert selector.count("\n") == 0


def pod_names(version: str) -> list[str]:
    """How the API server names a ReplicaSet's pods: cut at 58 characters, and five random ones."""
    return [
        f"{version}-{digest}-"[:58] + suffix for digest in ("7c9d8b6f5", "5d4f6b8c9d") for suffix in ("x2x4z", "bcdfg")
    ]


class TestSaturation:
    @pytest.mark.parametrize("gauge", list(SATURATION))
    @pytest.mark.parametrize("service", ["p", "payments", "a" * 27, "a" * 28, "a" * 30, "a" * 44])
    def test_saturation_query_covers_the_versions_own_pods_only(self, gauge: str, service: str) -> None:
        version, other = f"{service}-0123456-1795417200", f"{service}-fedcba9-1795417199"
        pattern = matchers(saturation_query(gauge, "shop", version))["pod"]
        for pod in pod_names(version):
            assert re.fullmatch(pattern, pod)
        for pod in pod_names(other) + pod_names(service):
            assert not re.fullmatch(pattern, pod)

    def test_saturation_query_is_namespaced_and_excludes_the_pause_container(self) -> None:
        query = saturation_query("memory", 'sh"op', "payments-1", window=45)
        assert 'namespace="sh\\"op"' in query
        assert 'container!=""' in query
        assert "[45s]" in saturation_query("cpu_saturation", "shop", "payments-1", window=45)


class TestApplicationPreset:
    PRESET = SOURCES["application"]

    def series(self, service: str, namespace: str = "shop", **more: str) -> Series:
        labels = {"__name__": self.PRESET.requests, "service": service, "namespace": namespace, **more}
        return Series(labels, [(100, 5), (105, 8)])

    def test_versions_are_identified_by_their_service(self) -> None:
        history = [
            self.series(STABLE, code="200", instance="pod-1"),
            self.series(STABLE, code="200", instance="pod-2"),
            self.series(CANDIDATE, code="500", instance="pod-3"),
            self.series("ledger", code="200", instance="pod-4"),
        ]
        ticks = CounterReader(self.PRESET, "shop", "pay", (CANDIDATE, STABLE), newborn=CANDIDATE).feed(history)
        assert total(ticks, STABLE) == Counts(requests=6)
        assert total(ticks, CANDIDATE) == Counts(requests=8, errors=8)

    def test_service_of_another_namespace_does_not_match(self) -> None:
        matcher = self.PRESET.matcher("shop", "pay", STABLE, CANDIDATE)
        assert matcher == f'service=~"(?:payments|{CANDIDATE})",namespace="shop"'
        assert matcher in self.PRESET.selector("shop", "pay", (STABLE, CANDIDATE), [0.5])
        assert matcher in self.PRESET.scrapes_query("shop", "pay", (STABLE, CANDIDATE))
