"""Aligns the counts of targets that are scraped at different times.

If each pod is a target of its own, no scrape covers both versions, so they cannot be compared within one. The increases
are therefore put into bins of one scrape interval, each of which holds one scrape of every target. An increase belongs
whole to the bin of its sample's time. If it were spread over the time before, counts would look steadier than they are,
and tests that rely on their variance would be too sure.

A bin is complete when every target has been scraped at or after the bin's end, except targets that have been silent for
two intervals. The bins' edges are multiples of the interval in absolute time. So the bins and their contents depend on
the samples alone, not on the times of the queries.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import ceil, floor
from operator import itemgetter
from typing import Generic, TypeVar

Increase = TypeVar("Increase")

SILENT_INTERVALS = 2
"""Intervals of silence after which a target no longer delays a bin."""


class ScrapeWindows(Generic[Increase]):
    """Takes in increases target by target and returns them bin by bin."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[float, str], list[Increase]] = {}
        self._newest: dict[str, float] = {}
        # These two cover complete bins only: the samples of later bins depend on the times of the queries.
        self._last: dict[str, float] = {}
        self._gap: dict[str, float] = {}
        self._end = 0.0

    def put(self, at: float, target: str, item: Increase) -> None:
        """Take in the increase up to the sample of ``target`` at ``at`` (unix seconds)."""
        self._waiting.setdefault((at, target), []).append(item)
        self._newest[target] = max(at, self._newest.get(target, at))

    def complete(self) -> Iterator[tuple[float, list[Increase]]]:
        """Yield each newly complete bin, oldest first: its end (unix seconds) and its items."""
        scrapes = sorted(self._waiting)
        while scrapes and (width := self._width(scrapes)):
            end = max(ceil(scrapes[0][0] / width), floor(self._end / width) + 1) * width
            if not self._is_complete(end, width):
                return
            cut = bisect_right(scrapes, end, key=itemgetter(0))
            within, scrapes = scrapes[:cut], scrapes[cut:]
            self._learn(within)
            self._end = end
            yield end, [item for scrape in within for item in self._waiting.pop(scrape)]

    def _is_complete(self, end: float, width: float) -> bool:
        newest = max(self._newest.values())
        return newest >= end and all(
            at >= end or at < newest - SILENT_INTERVALS * width for at in self._newest.values()
        )

    def _width(self, scrapes: Iterable[tuple[float, str]]) -> float | None:
        """Return the interval of the slowest target in whole seconds, since scrapes come a little early or late."""
        gap = max(self._gap.values(), default=None) or self._first_gap(scrapes)
        return gap and max(1.0, float(round(gap)))

    def _first_gap(self, scrapes: Iterable[tuple[float, str]]) -> float | None:
        last = dict(self._last)
        for at, target in scrapes:
            if target in last:
                return at - last[target]
            last[target] = at
        return None

    def _learn(self, scrapes: Iterable[tuple[float, str]]) -> None:
        for at, target in scrapes:
            if target in self._last:
                gap = at - self._last[target]
                self._gap[target] = min(gap, self._gap.get(target, gap))
            self._last[target] = at
