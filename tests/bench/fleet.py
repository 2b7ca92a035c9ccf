"""The deployments of the benchmark: each is a service of its own, whose canary has 5 % of its traffic."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import Counts
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.rollout.analysis.loop import Assignment
from tests.support.builders import make_plan, make_spec
from tests.support.json_patch import apply_patch

BEGAN = "AIRFLOW_DEPLOY_BENCH_BEGAN"
"""Environment variable: unix seconds at which the benchmark began."""
SCRAPE = 5.0
"""Seconds between two scrapes."""


@dataclass(frozen=True)
class Gate:
    """One deployment that waits for its next share."""

    plan: DeploymentPlan
    route: HttpRoute

    @property
    def assignment(self) -> Assignment:
        counts = Counts(6000, 6, 6000, dict.fromkeys(self.plan.spec.latency_limits.values(), 5970))
        baseline = Baseline(counts, quietest=19.0, dispersion=dict.fromkeys(self.plan.spec.counted_gates, 1.5))
        return Assignment("gate", self.plan.dump(), baseline.dump(), str(self.route.owner), began(), 25)


def began() -> float:
    return float(os.environ[BEGAN])


@cache
def gate(number: int) -> Gate:
    service = f"shop-{number:04}"
    route = {"name": f"{service}-route"}
    # It bakes for as long as it may, so that no gate opens before the benchmark is over.
    spec = make_spec(service=service, route=route, canary={"bake": 6 * 3600, "max_bake": 6 * 3600})
    plan = make_plan(spec, stable=service, run_id=f"bench-{number:04}", dag_id=f"deploy_{service}")
    return Gate(plan, _shifted(plan, 5, began()))


def _shifted(plan: DeploymentPlan, share: int, at: float) -> HttpRoute:
    """Return the route as a deployment has it that gave its candidate ``share`` %."""
    spec = plan.spec
    stable = {"kind": "Service", "name": plan.stable, "port": plan.stable_port, "weight": 1}
    metadata = {"name": spec.route.name, "namespace": spec.namespace, "resourceVersion": "1"}
    route = HttpRoute({"metadata": metadata, "spec": {"rules": [{"backendRefs": [stable]}]}})
    held, claim = routes.claim(route, plan.claim())
    claimed = HttpRoute(apply_patch(route.body, claim))
    return HttpRoute(apply_patch(claimed.body, routes.shift(claimed, held, share, at)))


@cache
def route_body(name: str) -> bytes:
    return json.dumps(gate(int(name[5:9])).route.body).encode()
