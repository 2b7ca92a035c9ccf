"""Brings together in time what targets that are scraped apart have counted.

Where each pod is a target of its own, no two versions are in one scrape, and nothing could be compared within one. So
what the samples add is put into bins as long as a scrape interval: each then holds one scrape of every target. An
increase belongs whole to the bin of its sample's time: divided over the time before it, counts would look steadier than
they are, and tests that rely on how much they vary would be too sure.

A bin is complete when every target has been scraped at its end or later; a target that has been silent for two
intervals is not waited for. The bins' edges are multiples of the interval in absolute time. So what is in a bin, and
where it ends, depends on the samples alone, and not on when they were asked for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import ceil, floor
from operator import itemgetter
from typing import Generic, TypeVar

Item = TypeVar("Item")

SILENT_INTERVALS = 2
"""Intervals after which a silent target is not waited for."""


class ScrapeWindows(Generic[Item]):
    """Takes in what samples add, target by target, and gives it back bin by bin."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[float, str], list[Item]] = {}
        self._newest: dict[str, float] = {}
        # These two tell of complete bins alone: what is known of later ones depends on when one asked.
        self._last: dict[str, float] = {}
        self._gap: dict[str, float] = {}
        self._end = 0.0

    def put(self, at: float, target: str, item: Item) -> None:
        """Take in what the sample of ``target`` at ``at`` (unix seconds) adds."""
        self._waiting.setdefault((at, target), []).append(item)
        self._newest[target] = max(at, self._newest.get(target, at))

    def complete(self) -> Iterator[tuple[float, list[Item]]]:
        """Give back each bin that has become complete, oldest first: its end and what is in it."""
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
        """Return the interval of the slowest target, in whole seconds: scrapes are a little early or late."""
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
