"""The shipped tests of counts for one gate of many deployments: ``Judge`` has them for all gates of one."""

from __future__ import annotations

import numpy as np

from airflow_deploy.domain.analysis.count_tests import CountedTests
from airflow_deploy.domain.analysis.judge import ALPHA
from airflow_deploy.domain.analysis.sequential import Array, dispersion
from airflow_deploy.domain.config.gates import GATES

LIMIT = GATES["error_rate"].default
GATES_COUNTED = sum(gate.counted for gate in GATES.values())
ALPHA_GATE = ALPHA / GATES_COUNTED


def begin(bad: Array, trials: Array, recent: int) -> CountedTests:
    """Return the tests as they begin a deployment.

    :param bad: bad requests of the stable by deployment and scrape of the hour before; ``trials``: its requests.
    :param recent: how many of the last scrapes are the baseline.
    """
    rate = bad[:, -recent:].sum(axis=1) / np.maximum(trials[:, -recent:].sum(axis=1), 1)
    return CountedTests(np.full(len(bad), LIMIT), rate, dispersion(bad, trials), ALPHA_GATE)
