"""The load generator keeps its rate however slow the service is, and records every request once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from itertools import islice, pairwise, takewhile
from statistics import mean, variance
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.stack import load
from tests.stack.load import Record, Request, Summary, arrivals, generate, payments, read, summarise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST = "payments.test"


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve `POST /payments` on a free loopback port; gives the URL."""
    application = web.Application()
    application.router.add_post("/payments", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/payments"
    finally:
        await runner.cleanup()


def send(handler: Handler, *, rate: float, seconds: float) -> list[Request]:
    """Send payments to the handler; gives them in the order in which they ended."""

    async def run() -> list[Request]:
        requests: list[Request] = []
        async with serving(handler) as url:
            await generate(url, requests.append, asyncio.Event(), host=HOST, rate=rate, seconds=seconds)
        return requests

    return asyncio.run(run())


async def answer(_: web.Request) -> web.Response:
    return web.Response(headers={"X-Version": "v1"})


def drop(request: web.Request) -> web.Response:
    assert request.transport
    request.transport.abort()
    return web.Response()


class TestArrivals:
    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a busy machine an answer may take longer than users would wait."""
        monkeypatch.setattr(load, "TIMEOUT", 60)

    def test_arrivals_do_not_wait_for_answers(self) -> None:
        """The server answers when all 150 have arrived: more than an HTTP client's usual limit of 100 connections."""
        waiting = 0
        all_arrived = asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            nonlocal waiting
            waiting += 1
            if waiting == 150:
                all_arrived.set()
            await all_arrived.wait()
            return await answer(request)

        requests = send(handler, rate=300, seconds=0.5)
        assert [request.status for request in requests] == [200] * 150

    def test_requests_are_never_sent_early(self) -> None:
        before = time.time()
        sent = sorted(request.sent for request in send(answer, rate=100, seconds=0.3))
        assert len(sent) == 30
        # The margin is for the clock: epoch seconds and the loop's may be adjusted against each other.
        assert all(moment >= before + number / 100 - 0.005 for number, moment in enumerate(sent))

    def test_overdue_requests_are_sent_at_once_after_a_delay(self) -> None:
        """The process was blocked for the time of 50 arrivals: those are sent at once, not later."""
        held_up = False

        async def handler(request: web.Request) -> web.Response:
            nonlocal held_up
            if not held_up:
                held_up = True
                time.sleep(0.25)  # noqa: ASYNC251  the point is that the loop stands still
            return await answer(request)

        sent = sorted(request.sent for request in send(handler, rate=200, seconds=0.5))
        assert len(sent) == 100
        assert sum(later - earlier < 0.5 / 200 for earlier, later in pairwise(sent)) >= 40

    def test_random_arrivals_are_independent(self) -> None:
        """Requests per second have the rate as their mean, and as their variance, as independent arrivals do."""
        seconds = 400
        moments = takewhile(lambda moment: moment < seconds, arrivals(20, at_random=True))
        counts = Counter(int(moment) for moment in moments)
        each = [counts[second] for second in range(seconds)]
        assert mean(each) == pytest.approx(20, rel=0.05)
        assert variance(each) == pytest.approx(20, rel=0.25)

    def test_requests_carry_the_host_and_a_payment(self) -> None:
        seen: list[tuple[str, int, str]] = []

        async def handler(request: web.Request) -> web.Response:
            body = await request.json()
            seen.append((request.host, body["amount"], body["currency"]))
            return await answer(request)

        send(handler, rate=100, seconds=0.05)
        expected = [json.loads(body) for body in islice(payments(), 5)]
        assert sorted(seen) == sorted((HOST, body["amount"], body["currency"]) for body in expected)

    def test_payments_spread_their_cents_evenly_in_random_order(self) -> None:
        cents = [json.loads(body)["amount"] % 100 for body in islice(payments(), 400)]
        blocks = [cents[start : start + 20] for start in range(0, 400, 20)]
        assert all(sorted(block) == list(range(0, 100, 5)) for block in blocks)
        assert len({tuple(block) for block in blocks}) == 20

    @pytest.mark.parametrize(
        "url",
        ["http://payments.test/", "http://10.0.0.1/", "http://0.0.0.0/", "http://127.0.0.1@payments.test/", "nonsense"],
    )
    def test_requests_to_other_than_loopback_are_refused(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            load.main(["--url", url, "--host", HOST, "--record", str(tmp_path / "record")])
        assert "not a loopback address" in capsys.readouterr().err
        with pytest.raises(ValueError, match="not a loopback address"):
            asyncio.run(generate(url, list[Request]().append, asyncio.Event(), host=HOST))


class TestFailures:
    def test_failures_are_recorded_with_the_version_that_answered(self) -> None:
        answers = iter([web.Response(status=500, headers={"X-Version": "v2"}), web.Response(status=502)])

        async def handler(_: web.Request) -> web.Response:
            return next(answers)

        requests = send(handler, rate=50, seconds=0.04)
        assert {(request.version, request.status) for request in requests} == {("v2", 500), ("", 502)}
        assert all(request.failed for request in requests)

    def test_failed_requests_are_not_sent_again(self) -> None:
        """The server cuts every second request's connection, reused ones as well."""
        received = 0

        async def handler(request: web.Request) -> web.Response:
            nonlocal received
            received += 1
            return drop(request) if received % 2 == 0 else await answer(request)

        requests = send(handler, rate=100, seconds=0.4)
        assert received == 40
        assert Counter(request.status for request in requests) == {200: 20, 0: 20}

    def test_incomplete_answer_is_a_failure(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"X-Version": "v1", "Content-Length": "100"})
            await response.prepare(request)
            await response.write(b"half")
            drop(request)
            return response

        (request,) = send(handler, rate=50, seconds=0.02)
        assert (request.version, request.status) == ("", 0)

    def test_timeout_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(load, "TIMEOUT", 0.2)

        async def handler(_: web.Request) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        (request,) = send(handler, rate=50, seconds=0.02)
        assert request.status == 0
        assert request.latency >= 0.19

    def test_refused_connection_is_a_failure(self) -> None:
        async def run() -> list[Request]:
            requests: list[Request] = []
            async with serving(answer) as url:
                pass
            await generate(url, requests.append, asyncio.Event(), host=HOST, seconds=0.02)
            return requests

        (request,) = asyncio.run(run())
        assert (request.version, request.status) == ("", 0)


class TestProgram:
    def test_record_is_readable_during_the_run_and_complete_after_sigterm(self, tmp_path: Path) -> None:
        path = tmp_path / "record"
        received = 0
        enough, release = asyncio.Event(), asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            nonlocal received
            received += 1
            if received > 10:
                enough.set()
                await release.wait()
            return await answer(request)

        async def run() -> list[Request]:
            record, seen = Record(path), list[Request]()
            async with serving(handler) as url:
                arguments = ["--url", url, "--host", HOST, "--rate", "100", "--record", str(path)]
                program = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.stack.load", *arguments)
                async with asyncio.timeout(60):
                    await enough.wait()
                    while len(seen) < 10:
                        seen += record.new()
                        await asyncio.sleep(0.01)
                    assert program.returncode is None
                    program.send_signal(signal.SIGTERM)
                    release.set()
                    assert await program.wait() == 0
            return seen + record.new()

        seen = asyncio.run(run())
        assert seen == read(path)
        assert len(seen) == received
        assert {(request.version, request.status) for request in seen} == {("v1", 200)}

    def test_amount_option_sets_every_payment(self, tmp_path: Path) -> None:
        amounts: list[int] = []

        async def handler(request: web.Request) -> web.Response:
            amounts.append((await request.json())["amount"])
            return await answer(request)

        async def run() -> int | None:
            async with serving(handler) as url:
                arguments = ["--url", url, "--host", HOST, "--record", str(tmp_path / "record"), "--seconds", "0.06"]
                command = [sys.executable, "-m", "tests.stack.load", *arguments, "--amount", "1000000000"]
                program = await asyncio.create_subprocess_exec(*command)
                return await program.wait()

        assert asyncio.run(run()) == 0
        assert amounts == [1_000_000_000] * 3


class TestRecord:
    def test_unfinished_line_of_the_record_is_read_later(self, tmp_path: Path) -> None:
        path = tmp_path / "record"
        record = Record(path)
        assert record.new() == []
        path.write_text('[1.5,"v1",200,0.02]\n[2.5,"v')
        assert record.new() == [Request(1.5, "v1", 200, 0.02)]
        assert record.new() == []
        with path.open("a") as file:
            file.write('2",0,10.0]\n')
        assert record.new() == [Request(2.5, "v2", 0, 10.0)]

    def test_summary_is_per_version(self) -> None:
        good = [Request(float(number), "v1", 200, (100 - number) / 1000) for number in range(100)]
        bad = [Request(5.0, "v2", 500, 0.1), Request(6.0, "v2", 404, 0.3), Request(200.0, "v2", 200, 9.0)]
        unanswered = [Request(7.0, "", 0, 10.0)]
        assert summarise(good + bad + unanswered, until=100.0) == {
            "": Summary(1, 1, {0.5: 10.0, 0.95: 10.0, 0.99: 10.0}),
            "v1": Summary(100, 0, {0.5: 0.05, 0.95: 0.095, 0.99: 0.099}),
            "v2": Summary(2, 1, {0.5: 0.1, 0.95: 0.3, 0.99: 0.3}),
        }
        assert summarise(good, since=98.0, quantiles=[1.0]) == {"v1": Summary(2, 0, {1.0: 0.002})}
