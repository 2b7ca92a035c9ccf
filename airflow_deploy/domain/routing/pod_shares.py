"""Traffic divided by numbers of pods: behind one Service each pod gets as much as any other."""


def pods_for_stage(stage: int, stable: int, most: int) -> int:
    """Return how many pods give the candidate at least ``stage`` % of the traffic beside ``stable`` pods.

    :param most: as many as it may have, which give it less than that if the stage would need more.
    """
    return most if stage >= 100 else min(most, max(1, -(-stable * stage // (100 - stage))))


def share_of(pods: int, stable: int) -> int:
    """Return the share in % that ``pods`` get beside ``stable`` others, rounded down, and 1 at least."""
    return max(1, 100 * pods // (pods + stable))
