"""See that a version is sent no more requests, before its pods end.

A gateway hears of a route's weights from the API server. If that was away for a while, the gateway asks it anew up
to a minute later, and goes on by the weights that it knows until then. Were the pods gone by that time, these requests
would be lost.
"""

from __future__ import annotations

import logging
import time

from airflow_deploy.domain.errors import DeployError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.rollout.analysis.observer import Observer

log = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""Seconds without a request after which none comes any more."""
DRAIN_WAIT_SECONDS = 90.0
"""Seconds for which that is awaited: a gateway built on Kubernetes' own client is deaf for a minute at most."""
LOOKBACK_BEFORE_DRAIN = 120
"""Seconds of the past that are asked for too: what is added by the first scrape is known by the one before."""
DRAIN_POLL_SECONDS = 1.0
"""Seconds between two queries."""


def wait_until_drained(plan: DeploymentPlan) -> str | None:
    """Wait until the candidate got no request for ``QUIET_SECONDS`` seconds, by the counters that judge it.

    :returns: None once that is seen; after ``DRAIN_WAIT_SECONDS`` seconds, why it was not.
    """
    log.info("%s ends when no request has come to it for %.0f s", plan.candidate, QUIET_SECONDS)
    began = last = time.time()
    deadline = time.monotonic() + DRAIN_WAIT_SECONDS
    why = "there are no counters"
    observer = reader = None
    while time.monotonic() < deadline:
        try:
            observer = observer or Observer.connect(plan)
            reader = reader or observer.reader(newborn=False)
            for tick in reader.feed(observer.ask(int(time.time() - began) + LOOKBACK_BEFORE_DRAIN).counters):
                if tick.counts[plan.candidate].requests:
                    last = max(last, tick.at)
                    why = f"the last was seen {last - began:.0f} s after its traffic was returned"
                if tick.at >= last + QUIET_SECONDS:
                    return None
        except DeployError as error:
            why = str(error)
        time.sleep(DRAIN_POLL_SECONDS)
    said = f"the gateway was not seen to stop sending requests to {plan.candidate} in {DRAIN_WAIT_SECONDS:.0f} s: {why}"
    log.warning("%s", said)
    return said
