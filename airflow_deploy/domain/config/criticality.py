"""The levels of criticality and what each permits. A new level is one more entry of the table."""

from typing import NamedTuple


class Criticality(NamedTuple):
    """One level.

    :param trust: the highest value of the confidence factor ``blast_radius``, 0 to 1.
    :param first_share: the largest permitted first share of traffic, in %.
    """

    trust: float
    first_share: int


CRITICALITY = {"low": Criticality(1.0, 100), "medium": Criticality(0.9, 100), "high": Criticality(0.7, 10)}
