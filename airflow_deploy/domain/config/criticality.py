"""What it means for a service to be critical. A new level is one more entry."""

from typing import NamedTuple


class Criticality(NamedTuple):
    """One level.

    :param trust: what the blast radius is worth at best, 0 to 1.
    :param first_share: the largest first share of the traffic, in %.
    """

    trust: float
    first_share: int


CRITICALITY = {"low": Criticality(1.0, 100), "medium": Criticality(0.9, 100), "high": Criticality(0.7, 10)}
