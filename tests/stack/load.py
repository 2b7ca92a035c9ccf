"""
Sends payments at a fixed rate and records what became of each: what is said of users comes from this record.

The load is *open-loop*: arrivals are set by the clock alone, so a slow service meets as many requests as a fast one, as
it would in life. It is a POST, as payments are: a GET would be sent again in silence, by the client or the gateway,
when a connection breaks, and a lost request would go unseen. The record is text that grows by one line as each request
ends, a JSON list of time sent (epoch seconds, UTC), version that answered, status and latency (seconds):
`[1767225600.123456,"v1",200,0.0213]`.

    python -m tests.stack.load --url http://127.0.0.1:8000/payments --host payments.test --rate 50 --record FILE

Only `--anywhere` lets it leave this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import itertools
import json
import math
import random
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

TIMEOUT = 10.0  # seconds
# Unused connections are closed by us, long before a gateway would (Traefik: 180 s): one that is closed while a request
# is on its way would be an error of our own making.
KEEP_ALIVE = 3.0  # seconds
NO_ANSWER = 0


class Request(NamedTuple):
    """
    One request, as recorded.

    :param sent: when it was sent, epoch seconds (UTC).
    :param version: the version that answered (`X-Version`); empty if the gateway answered, or there was no answer.
    :param status: HTTP status; 0 when no whole answer came within the time-out.
    :param latency: seconds until the whole answer was there, or none was awaited any more.
    """

    sent: float
    version: str
    status: int
    latency: float

    @property
    def failed(self) -> bool:
        return self.status == NO_ANSWER or self.status >= 500


@dataclass(frozen=True)
class Summary:
    """
    What the users of one version had.

    :param count: requests.
    :param failed: of these, those that got no answer or a status of 500 or more.
    :param latency: quantile (0 to 1) -> seconds, over all requests: users wait for failures too.
    """

    count: int
    failed: int
    latency: Mapping[float, float]


class Record:
    """A record that may still be written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[Request]:
        """Return the requests recorded since the last call; an unfinished line is read by a later call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [Request(*json.loads(line)) for line in whole.splitlines()]


def read(record: Path) -> list[Request]:
    """All requests recorded so far, in the order in which they ended."""
    return Record(record).new()


def summarise(
    requests: Iterable[Request],
    *,
    since: float = -math.inf,
    until: float = math.inf,
    quantiles: Iterable[float] = (0.5, 0.95, 0.99),
) -> dict[str, Summary]:
    """
    Sum up the requests per version that answered; "" is the gateway itself, or no answer.

    :param since: leave out what was sent before it, epoch seconds.
    :param until: leave out what was sent then or later, epoch seconds.
    """
    levels = tuple(quantiles)
    groups: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        if since <= request.sent < until:
            groups[request.version].append(request)
    return {
        version: Summary(
            count=len(group),
            failed=sum(request.failed for request in group),
            latency={level: quantile([request.latency for request in group], level) for level in levels},
        )
        for version, group in sorted(groups.items())
    }


def quantile(values: Sequence[float], level: float) -> float:
    """By nearest rank: the least of the values (one at least) that at least that part of them do not exceed."""
    return sorted(values)[max(0, math.ceil(level * len(values)) - 1)]


def payments(seed: int = 0) -> Iterator[bytes]:
    """
    Bodies of payments, the same ones for each seed.

    Prices come in steps of 5 cents, and each value of the cents occurs once in every 20 payments, in an order that
    changes: a fixed one could fall in step with the gateway, which gives, say, every 20th request to a candidate.
    """
    chance = random.Random(seed)
    cents = list(range(0, 100, 5))
    while True:
        chance.shuffle(cents)
        for rest in cents:
            yield payment(100 * chance.randint(1, 200) + rest)


def payment(amount: int) -> bytes:
    """One body; the amount is in cents."""
    return b'{"amount":%d,"currency":"EUR"}' % amount


async def generate(
    url: str,
    record: Callable[[Request], None],
    stop: asyncio.Event,
    *,
    host: str,
    rate: float = 50.0,
    seconds: float | None = None,
    anywhere: bool = False,
    bodies: Iterator[bytes] | None = None,
    close: bool = False,
    at_random: bool = False,
) -> None:
    """
    Send requests until `stop` is set or `seconds` are over, then wait for the answers still due.

    :param url: where payments are posted to; this machine's loopback, unless `anywhere`.
    :param record: called with each request as it ends.
    :param host: the Host header.
    :param rate: arrivals per second.
    :param bodies: what is sent; `payments()` by default.
    :param close: open a connection for each request.
    :param at_random: let them arrive independently of each other, at that rate on average.
    :raises ValueError: the URL leads elsewhere.
    """
    if not anywhere:
        _check_loopback(url)
    bodies = bodies or payments()
    loop = asyncio.get_running_loop()
    # Without limit=0 the 101st request at a time would wait for a connection: a closed loop after all.
    kept: dict[str, Any] = {"force_close": True} if close else {"keepalive_timeout": KEEP_ALIVE}
    connector = aiohttp.TCPConnector(limit=0, **kept)
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            headers={"Host": host, "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session,
        asyncio.TaskGroup() as outstanding,
    ):
        start = loop.time()
        moments = arrivals(rate, at_random=at_random)
        for arrival in moments if seconds is None else itertools.islice(moments, round(seconds * rate)):
            # Counted from the start, not from the last one: delays do not add up, and what is overdue is sent at once.
            if await _set_before(stop, start + arrival):
                break
            outstanding.create_task(_send(session, url, next(bodies), record))


def arrivals(rate: float, *, at_random: bool) -> Iterator[float]:
    """
    When requests arrive, in seconds from the start.

    At random they are a Poisson process, the same for each rate. Of two loads that are both even, a gateway that takes
    turns would give all requests of one to the same version for a second at a time.
    """
    if not at_random:
        yield from (number / rate for number in itertools.count())
    chance = random.Random(0)
    yield from itertools.accumulate(chance.expovariate(rate) for _ in itertools.count())


async def _set_before(stop: asyncio.Event, when: float) -> bool:
    """Wait until `when` (of the loop's clock); true as soon as `stop` is set."""
    if not stop.is_set() and when > asyncio.get_running_loop().time():
        try:
            async with asyncio.timeout_at(when):
                await stop.wait()
        except TimeoutError:
            pass
    return stop.is_set()


async def _send(session: aiohttp.ClientSession, url: str, body: bytes, record: Callable[[Request], None]) -> None:
    version, status = "", NO_ANSWER
    sent, began = time.time(), time.monotonic()
    try:
        async with session.post(url, data=body, allow_redirects=False) as response:
            await response.read()
            version, status = response.headers.get("X-Version", ""), response.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass  # no whole answer: that is what the record says
    record(Request(round(sent, 6), version, status, round(time.monotonic() - began, 6)))


def _check_loopback(url: str) -> None:
    """Refuse to load anything but this machine (or network namespace): a typing error must not become an attack."""
    address = urlsplit(url).hostname or ""
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"url: {address or url!r} is not a loopback address, and load is sent to no other")


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Line-buffered: each request is in the file as soon as it has ended, for those who read along.
    with arguments.record.open("a", buffering=1) as file:
        await generate(
            arguments.url,
            lambda request: print(json.dumps(request, separators=(",", ":")), file=file),
            stop,
            host=arguments.host,
            rate=arguments.rate,
            seconds=arguments.seconds,
            anywhere=arguments.anywhere,
            close=arguments.close,
            at_random=arguments.at_random,
            bodies=None if arguments.amount is None else itertools.repeat(payment(arguments.amount)),
        )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stack.load", description="Send payments at a fixed rate.")
    parser.add_argument("--url", required=True, help="where payments are posted to")
    parser.add_argument("--anywhere", action="store_true", help="the URL may lead to another machine: it is yours")
    parser.add_argument("--close", action="store_true", help="open a connection for each request")
    parser.add_argument("--at-random", action="store_true", help="requests arrive independently of each other")
    parser.add_argument("--host", required=True, help="the Host header")
    parser.add_argument("--rate", type=_positive, default=50.0, help="requests per second (50)")
    parser.add_argument("--record", type=Path, required=True, help="the file to append one line per request to")
    parser.add_argument("--amount", type=int, help="of every payment, in cents (else as users pay)")
    parser.add_argument("--seconds", type=_positive, help="end after so long (else on SIGTERM or SIGINT)")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.anywhere:
            _check_loopback(arguments.url)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(_run(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
