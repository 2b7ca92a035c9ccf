"""The triggers end with one verdict, roll back before they report it, and survive unexpected errors."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.connection import REQUEST_RETRIES
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.names import digest
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.analysis.loop import AnalysisLoop, Role
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.tasks import triggers
from airflow_deploy.tasks.triggers import (
    LOOK_INTERVAL,
    LOOKS_PER_SECOND,
    MAX_CONCURRENT_LOOKS,
    MAX_FAILING_SECONDS,
    AnalysisTrigger,
    Pace,
    ReadyTrigger,
    in_thread,
)
from tests.support.airflow_home import isolate
from tests.support.events import ended
from tests.support.judgement import START
from tests.support.kubernetes_api import CRASH_LOOP
from tests.support.loops import HARMFUL, HEALTHY, MAX_BAKE, planned
from tests.support.other_writers import with_a_rule_for_the_candidate_alone
from tests.support.world import Stage, World, records


class TestHarm:
    def test_the_watch_rolls_back_and_then_reports_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        event = ended(world.trigger("watch"))
        assert event["verdict"] == "BREACHED"
        assert event["restored_at"] is not None
        assert world.cluster.weights() == {world.plan.stable: 100, world.plan.candidate: 0}
        assert world.cluster.now.phase == routes.BRAKED
        word = json.loads(world.cluster.now.final_verdict or "")
        assert (word["verdict"], word["reason"], word["at"]) == ("BREACHED", event["reason"], event["at"])

    def test_the_brake_comes_before_everything_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        phases: list[str | None] = []

        class Store:
            def __init__(self, plan: Any) -> None:
                phases.append(world.cluster.now.phase)

            def write(self, name: str, text: str) -> str:
                return digest(text)

        monkeypatch.setattr(triggers, "Artifacts", Store)
        ended(world.trigger("watch"))
        assert phases == [routes.BRAKED]

    def test_the_gate_rolls_back_if_the_watch_did_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        event = ended(world.trigger("gate", 50))
        assert (event["verdict"], world.cluster.now.phase) == ("BREACHED", routes.BRAKED)
        watch = ended(world.trigger("watch"))
        assert (watch["verdict"], watch["reason"]) == ("BREACHED", event["reason"])

    def test_harm_is_reported_even_if_it_cannot_be_rolled_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        with_a_rule_for_the_candidate_alone(world.cluster)
        event = ended(world.trigger("watch"))
        assert (event["verdict"], event["restored_at"]) == ("BREACHED", None)
        assert (world.cluster.now.phase, world.cluster.weights()[world.plan.candidate]) == (routes.BRAKED, 0)

    def test_the_brake_needs_no_thread_of_the_triggerers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Others' triggers may have taken all of them, and hang."""
        world = World(monkeypatch, planned(), HARMFUL)
        braked, waited = threading.Event(), []
        begin = AnalysisTrigger._begin

        async def then_all_are_taken(trigger: AnalysisTrigger) -> AnalysisLoop:
            looks = await begin(trigger)
            taken = ThreadPoolExecutor(1)
            asyncio.get_running_loop().set_default_executor(taken)
            taken.submit(lambda: waited.append(braked.wait(30)))
            return looks

        monkeypatch.setattr(AnalysisTrigger, "_begin", then_all_are_taken)
        world.cluster.api.before("/httproutes/", braked.set, method="PATCH")
        assert ended(world.trigger("watch"))["restored_at"] is not None
        assert waited == [True]

    def test_a_cluster_that_answers_late_costs_no_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        for status in (429, 403):
            world.cluster.api.fail("/httproutes/", status, method="PATCH")
        world.cluster.api.fail("/httproutes/", method="PATCH", exception=ConnectionResetError)
        event = ended(world.trigger("watch"))
        assert event["restored_at"] is not None
        assert world.cluster.now.phase == routes.BRAKED

    def test_a_second_loop_says_the_same_and_writes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The triggerer was restarted between the brake and the event, or two of them looked at once."""
        world = World(monkeypatch, planned(), HARMFUL)
        first = ended(world.trigger("watch"))
        writes = world.cluster.writes
        world.clock.sleep(60)
        second = ended(world.trigger("watch"))
        told = ("verdict", "reason", "at", "restored_at", "numbers")
        assert [second[key] for key in told] == [first[key] for key in told]
        assert world.cluster.writes == writes

    @pytest.mark.parametrize("word", ["", "garbled", "{}"])
    def test_a_second_loop_that_finds_no_verdict_is_closed(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        ended(world.trigger("watch"))
        world.cluster.annotate(routes.FINAL_VERDICT, word)
        event = ended(world.trigger("watch"))
        assert (event["verdict"], event["numbers"]) == ("CLOSED", {"phase": routes.BRAKED})

    @pytest.mark.parametrize("role", ["watch", "verify"])
    def test_blindness_is_rolled_back_if_the_spec_says_so(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world = World(monkeypatch, planned("rollback"), Stage(0, 100), promoted=role == "verify")
        world.observer.away = [(0, 1e9)]
        event = ended(world.trigger(role))
        assert (event["verdict"], world.cluster.now.phase) == ("BLIND", routes.BRAKED)

    def test_a_verification_that_cannot_decide_rolls_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100), promoted=True)
        world.observer.gauge_at = lambda _: None
        event = ended(world.trigger("verify"))
        assert (event["verdict"], world.cluster.now.phase) == ("UNDECIDED", routes.BRAKED)


class TestNoHarm:
    def test_a_healthy_stage_writes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        writes = world.cluster.writes
        event = ended(world.trigger("gate", 50))
        assert (event["verdict"], event["restored_at"]) == ("HEALTHY", None)
        assert world.cluster.writes == writes

    def test_a_gate_that_cannot_decide_leaves_the_rest_to_the_rollback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda _: None
        writes = world.cluster.writes
        assert ended(world.trigger("gate", 50))["verdict"] == "UNDECIDED"
        assert world.clock.now >= START + MAX_BAKE
        assert world.cluster.writes == writes

    def test_a_route_that_was_lost_is_not_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        trigger = world.trigger("watch")
        world.cluster.annotate(routes.OWNER, "DEP-2-ffffffff/9")
        writes = world.cluster.writes
        assert ended(trigger)["verdict"] == "CLOSED"
        assert world.cluster.writes == writes


class TestEvidence:
    def test_is_kept_under_its_digest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        event = ended(world.trigger("watch"))
        plan = world.plan
        kept = isolate() / "artifacts" / plan.spec.service / plan.deployment_id / event["evidence"]
        text = kept.read_text()
        assert digest(text) == event["evidence_sha256"]
        assert kept.name == f"watch-{digest(text)[:8]}.jsonl"
        last = records(text, "look")[-1]
        assert (last["verdict"], last["findings"][0]["reason"] in event["reason"]) == ("BREACHED", True)

    def test_two_loops_do_not_spoil_each_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        first, second = ended(world.trigger("watch")), ended(world.trigger("watch"))
        assert first["evidence"] != second["evidence"]
        folder = isolate() / "artifacts" / world.plan.spec.service / world.plan.deployment_id
        for event in (first, second):
            assert digest(Path(folder / event["evidence"]).read_text()) == event["evidence_sha256"]

    @pytest.mark.parametrize("error", [OSError("disk full"), PermissionError("no"), ValueError("odd store")])
    def test_a_store_that_fails_does_not_cost_the_verdict(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def fail(*_: object) -> str:
            raise error

        world = World(monkeypatch, planned(), HARMFUL)
        monkeypatch.setattr(Artifacts, "write", fail)
        event = ended(world.trigger("watch"))
        assert (event["verdict"], event["evidence"], event["evidence_sha256"]) == ("BREACHED", None, None)
        assert world.cluster.now.phase == routes.BRAKED

    def test_a_store_that_hangs_does_not_cost_the_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        released = threading.Event()

        def hang(*_: object) -> str:
            released.wait(30)
            return ""

        world = World(monkeypatch, planned(), HARMFUL)
        monkeypatch.setattr(Artifacts, "write", hang)
        monkeypatch.setattr(triggers, "STORE_TIMEOUT", 0.01)

        async def run() -> dict[str, Any]:
            try:
                return await world.trigger("watch").event()
            finally:
                released.set()

        event = asyncio.run(run())
        assert (event["verdict"], event["evidence_sha256"]) == ("BREACHED", None)


class TestUnexpectedErrors:
    @pytest.mark.parametrize("role", ["watch", "verify"])
    @pytest.mark.parametrize("error", [KeyError("le"), ValueError("odd"), AttributeError("None"), RecursionError()])
    def test_in_each_look_end_in_a_rollback(
        self, monkeypatch: pytest.MonkeyPatch, role: Role, error: Exception
    ) -> None:
        world = World(monkeypatch, planned("hold"), Stage(0, 100), promoted=role == "verify")
        self.break_from(monkeypatch, world, 0, 1e9, error)
        event = ended(world.trigger(role))
        assert event["verdict"] == "BLIND"
        assert MAX_FAILING_SECONDS <= world.clock.now - START <= MAX_FAILING_SECONDS + 5
        assert world.cluster.now.phase == routes.BRAKED

    def test_in_each_look_of_a_gate_end_blind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned("hold"), HEALTHY)
        self.break_from(monkeypatch, world, 0, 1e9, KeyError("le"))
        assert ended(world.trigger("gate", 50))["verdict"] == "BLIND"
        assert world.cluster.now.phase == routes.CANARY  # the rollback follows

    def test_for_a_moment_change_no_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        self.break_from(monkeypatch, world, 10, 10 + MAX_FAILING_SECONDS - 5, KeyError("le"))
        assert ended(world.trigger("gate", 50))["verdict"] == "HEALTHY"

    def test_in_every_second_look_do_not_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda _: None
        self.break_from(monkeypatch, world, 0, 1e9, KeyError("le"), every=2)
        assert ended(world.trigger("gate", 50))["verdict"] == "UNDECIDED"

    def test_before_harm_do_not_hide_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        self.break_from(monkeypatch, world, 0, 40, KeyError("le"))
        assert ended(world.trigger("watch"))["verdict"] == "BREACHED"
        assert world.cluster.now.phase == routes.BRAKED

    def test_in_a_rollback_are_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the verdict, harm goes on until the traffic is back."""
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.api.fail("/httproutes/", method="PATCH", exception=KeyError("metadata"))
        event = ended(world.trigger("watch"))
        assert event["verdict"] == "BREACHED"
        assert world.cluster.now.phase == routes.BRAKED

    @pytest.mark.parametrize("error", [OSError("no API server"), RuntimeError("not ready"), RefusedError("403")])
    def test_while_connecting_are_tried_again(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        errors = [error] * 3

        def connect(_: Any) -> Any:
            if errors:
                raise errors.pop()
            return world.observer

        monkeypatch.setattr(Observer, "connect", connect)
        assert ended(world.trigger("watch"))["verdict"] == "BREACHED"

    def test_while_connecting_that_persist_fail_the_trigger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)

        def connect(_: Any) -> Any:
            raise RefusedError("there is no such connection")

        monkeypatch.setattr(Observer, "connect", connect)
        with pytest.raises(RefusedError, match="no such connection"):
            asyncio.run(world.trigger("watch").event())
        assert world.clock.now >= START + MAX_FAILING_SECONDS

    @staticmethod
    def break_from(
        monkeypatch: pytest.MonkeyPatch, world: World, begin: float, end: float, error: Exception, every: int = 1
    ) -> None:
        look, number = AnalysisLoop.look, iter(range(10**6))

        def broken(self: AnalysisLoop) -> FinalVerdict | None:
            if begin <= world.clock.now - START < end and next(number) % every == 0:
                raise error
            return look(self)

        monkeypatch.setattr(AnalysisLoop, "look", broken)


class Sleeper:
    """A clock that sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr(triggers, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now))
        monkeypatch.setattr("asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def looks(self, pace: Pace, number: int) -> list[float]:
        """Look so often, and return after how many seconds each look began."""
        begun = self.now

        async def run() -> list[float]:
            return [await pace.look(lambda: self.now) - begun for _ in range(number)]

        return asyncio.run(run())


class TestPace:
    MANY = 1000

    def test_a_loop_among_few_looks_at_once_and_then_every_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sleeper = Sleeper(monkeypatch)
        with Pace() as pace:
            assert sleeper.looks(pace, 4) == [0, LOOK_INTERVAL, 2 * LOOK_INTERVAL, 3 * LOOK_INTERVAL]

    def test_the_time_of_a_look_is_part_of_the_interval(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sleeper = Sleeper(monkeypatch)
        with Pace() as pace:
            sleeper.looks(pace, 1)
            sleeper.now += 0.4
            assert sleeper.looks(pace, 1) == [pytest.approx(0.6)]
            sleeper.now += 7
            assert sleeper.looks(pace, 2) == [0, LOOK_INTERVAL]

    def test_many_loops_share_what_a_process_can_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sleeper = Sleeper(monkeypatch)
        with ExitStack() as begun:
            pace, *_ = [begun.enter_context(Pace()) for _ in range(self.MANY)]
            first, second = sleeper.looks(pace, 2)
            assert second - first == pytest.approx(self.MANY / LOOKS_PER_SECOND)
        with Pace() as alone:
            assert sleeper.looks(alone, 2) == [0, LOOK_INTERVAL]

    def test_loops_that_begin_together_spread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sleeper = Sleeper(monkeypatch)
        seconds = self.MANY / LOOKS_PER_SECOND
        looked: Counter[int] = Counter()
        with ExitStack() as begun:
            for pace in [begun.enter_context(Pace()) for _ in range(self.MANY)]:
                sleeper.now = START
                looked[int(sleeper.looks(pace, 2)[1] % seconds)] += 1
        assert max(looked.values()) <= 1.5 * LOOKS_PER_SECOND

    def test_no_more_looks_are_at_work_than_the_processor_bears(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Sleeper(monkeypatch)
        monkeypatch.setattr(triggers, "SLOW_LOOK_SECONDS", 30.0)
        working, most, guard = 0, 0, threading.Lock()
        together = threading.Barrier(MAX_CONCURRENT_LOOKS)

        def look() -> None:
            nonlocal working, most
            with guard:
                working += 1
                most = max(most, working)
            together.wait(30)
            with guard:
                working -= 1
            together.wait(30)

        async def run() -> None:
            with ExitStack() as begun:
                await asyncio.gather(*(begun.enter_context(Pace()).look(look) for _ in range(3 * MAX_CONCURRENT_LOOKS)))

        asyncio.run(run())
        assert most == MAX_CONCURRENT_LOOKS

    def test_looks_that_hang_hold_up_no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(triggers, "SLOW_LOOK_SECONDS", 0.01)
        released = threading.Event()

        async def run() -> int:
            with ExitStack() as begun:
                paces = [begun.enter_context(Pace()) for _ in range(2 * MAX_CONCURRENT_LOOKS)]
                hanging = [asyncio.ensure_future(pace.look(lambda: released.wait(30))) for pace in paces]
                try:
                    with Pace() as pace:
                        return await pace.look(lambda: 1)
                finally:
                    released.set()
                    await asyncio.gather(*hanging)

        assert asyncio.run(asyncio.wait_for(run(), 20)) == 1

    def test_work_that_hangs_keeps_no_other_from_being_done(self) -> None:
        released = threading.Event()

        async def run() -> int:
            hanging = [asyncio.ensure_future(in_thread(lambda: released.wait(30))) for _ in range(100)]
            try:
                return await in_thread(lambda: 1)
            finally:
                released.set()
                await asyncio.gather(*hanging)

        assert asyncio.run(asyncio.wait_for(run(), 20)) == 1

    def test_the_triggerers_loop_imports_nothing_heavy(self) -> None:
        script = (
            "import sys, airflow_deploy.tasks.triggers, airflow_deploy.tasks.question_trigger\n"
            "print([name for name in ('numpy', 'kubernetes', 'requests') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


class TestSerialisation:
    def again(self, trigger: triggers.OneEventTrigger) -> Any:
        path, arguments = trigger.serialize()
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))

    @pytest.mark.parametrize("role", ["watch", "gate", "verify"])
    def test_a_restarted_triggerer_builds_the_same_loop(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        trigger = world.trigger(role, None if role == "watch" else 50)
        again = self.again(trigger)
        assert type(again) is AnalysisTrigger
        assert again.serialize() == trigger.serialize()

    def test_a_restarted_trigger_reaches_the_same_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        trigger = self.again(world.trigger("watch"))
        assert ended(trigger)["verdict"] == "BREACHED"

    def test_a_readiness_check_keeps_its_deadline(self) -> None:
        trigger = ReadyTrigger(planned().dump(), START + 360)
        again = self.again(trigger)
        assert (type(again), again.serialize()) == (ReadyTrigger, trigger.serialize())


class TestReadiness:
    def world(self, monkeypatch: pytest.MonkeyPatch, *ready: int) -> World:
        """Let so many pods be ready at each look, one after the other; at the end, all of them."""
        world = World(monkeypatch, planned(), HEALTHY)
        seen = iter(ready)

        def go_on() -> None:
            world.cluster.workloads.let(world.plan.candidate, ready=next(seen, None))

        world.cluster.api.before("/deployments/", go_on, method="GET", times=None)
        return world

    def ended(self, world: World, seconds: float = 360) -> dict[str, Any]:
        return ended(ReadyTrigger(world.plan.dump(), START + seconds))

    def test_waits_for_all_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch, 0, 1, 2)
        assert self.ended(world) == {"ready": 2, "wanted": 2, "failed": None}
        assert world.clock.now == START + 2 * LOOK_INTERVAL

    def test_ends_at_once_if_a_pod_never_will_be_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.workloads.let(world.plan.candidate, **CRASH_LOOP)
        assert "CrashLoopBackOff" in self.ended(world)["failed"]
        assert world.clock.now == START

    def test_asks_again_if_the_cluster_does_not_answer(
        self, monkeypatch: pytest.MonkeyPatch, slept: list[float]
    ) -> None:
        world = self.world(monkeypatch)
        assert isinstance(REQUEST_RETRIES.total, int)
        world.cluster.api.fail("/deployments/", method="GET", times=5 * (1 + REQUEST_RETRIES.total))
        assert self.ended(world)["failed"] is None
        assert world.clock.now == START + 5 * LOOK_INTERVAL

    @pytest.mark.parametrize(("ready", "wanted"), [(1, 2), (0, 0)], ids=["one of two", "scaled to 0"])
    def test_gives_up_at_its_deadline(self, monkeypatch: pytest.MonkeyPatch, ready: int, wanted: int) -> None:
        world = self.world(monkeypatch, *[ready] * 100)
        world.cluster.replicas[world.plan.candidate] = wanted
        failed = f"{ready} of {wanted} pods were ready in time"
        assert self.ended(world, 30) == {"ready": ready, "wanted": wanted, "failed": failed}
        assert world.clock.now == START + 30

    def test_a_restart_after_the_deadline_ends_it_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ended(self.world(monkeypatch), -1)["failed"]
