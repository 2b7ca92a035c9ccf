"""The shipped rules of judgement for many deployments at once: what ``Judge`` does for one with all its gates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airflow_deploy.domain.delivery import BETA
from airflow_deploy.domain.gates import GATES
from airflow_deploy.domain.judge import ALPHA, BEYOND_BASELINE, SUSPICION
from airflow_deploy.domain.sequential import Array, EProcess, Starts, dispersion, log_threshold, upper_bound

LIMIT = GATES["error_rate"].default
GATES_COUNTED = sum(gate.counted for gate in GATES.values())
ALPHA_GATE = ALPHA / GATES_COUNTED


class Engine:
    """Judges one gate of each of many deployments.

    :param bad: bad requests of the stable by deployment and scrape of the hour before; ``trials``: its requests.
    :param recent: how many of the last scrapes are the baseline.
    """

    def __init__(self, bad: Array, trials: Array, recent: int) -> None:
        runs = len(bad)
        self._process, self._starts = EProcess((runs,)), Starts((runs,))
        self._phi = dispersion(bad, trials)
        rate = bad[:, -recent:].sum(axis=1) / np.maximum(trials[:, -recent:].sum(axis=1), 1)
        self._edge = np.maximum(LIMIT, BEYOND_BASELINE * np.where(rate > LIMIT, 0.0, rate))
        self._mine = np.zeros((2, runs))

    def observe(self, at: float, share: Array, mine: Array, control: Array) -> None:
        """Take in one scrape: bad requests and requests of the candidate and of the stable."""
        self._mine = self._mine + mine
        self._process.start(self._starts.at(at, share))
        self._process.compare(mine[0], mine[1], control[0], control[1], self._phi)
        if (alone := share == 100).any():
            self._process.against(mine[0] * alone, mine[1] * alone, self._edge, self._phi)

    @property
    def log_e(self) -> Array:
        """The logarithm of the evidence of harm."""
        return self._process.log_e

    def harmful(self) -> NDArray[np.bool_]:
        """Whether the candidate would be stopped now."""
        return np.asarray(self.log_e >= log_threshold(ALPHA_GATE))

    def healthy(self, asked: NDArray[np.bool_], following: Array) -> NDArray[np.bool_]:
        """Whether the ``following`` share in % may be given, where that is ``asked``."""
        bound = np.ones(len(asked))
        bound[asked] = upper_bound(self._mine[0, asked], self._mine[1, asked], BETA, self._phi[asked])
        return np.asarray(asked & (bound * following / 100 <= LIMIT) & (self.log_e < np.log(SUSPICION)))
