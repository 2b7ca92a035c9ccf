"""What stands in the cluster is input: no annotation and no Lease leads the guard to an object of others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_deploy.domain.config.spec import MIN_LEASE_SECONDS
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import FINAL_VERDICT, OWNER, PHASE, SHIFTS, STOPPED, VERSIONS
from tests.support.builders import make_plan, make_spec
from tests.support.guards import Post
from tests.support.kubernetes_api import Object
from tests.support.replicas_cluster import ReplicasCluster, planned
from tests.support.service_cluster import ServiceCluster

OTHERS = ("database", "search-fffffff-1795417201")
"""Deployments in the service's namespace: the team's own, and a version of another service of ours."""
NAMES = st.sampled_from(
    [
        *OTHERS,
        "payments",
        "../../kube-system/deployments/coredns",
        "coredns",
        "..",
        "%2e%2e/x",
        "a?dryRun=All",
        "a#b",
        "",
    ]
)
TEXTS = NAMES | st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda part: st.lists(part, max_size=3), max_leaves=4
)


@st.composite
def records(draw: st.DrawFn) -> dict[str, str]:
    """Return annotations of ours as another client may write them."""
    versions = {"stable": draw(TEXTS), "candidate": draw(TEXTS)} if draw(st.booleans()) else draw(JSON)
    candidates = {
        OWNER: draw(TEXTS | st.sampled_from(["DEP-1795417200-ffffffff/1", "DEP-1795417201-00000000/7"])),
        PHASE: draw(st.sampled_from([routes.BRAKED, *routes.WATCHED_PHASES]) | TEXTS),
        VERSIONS: json.dumps(versions),
        SHIFTS: json.dumps(draw(JSON)),
        STOPPED: draw(TEXTS),
        FINAL_VERDICT: draw(TEXTS),
    }
    return {key: value for key, value in candidates.items() if draw(st.booleans())}


def beside(cluster: ServiceCluster) -> dict[tuple[str, str, str], Object]:
    """Return all objects of others, by kind, namespace and name."""
    mine = {cluster.plan.candidate, cluster.plan.spec.route.name}
    found = [item for kind in ("Deployment", "Service", "HTTPRoute") for item in cluster.api.all(kind)]
    keys = {(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item for item in found}
    return {key: item for key, item in keys.items() if key[2] not in mine}


def with_others(cluster: ServiceCluster) -> ServiceCluster:
    other = make_plan(make_spec(service="search"), commit="f" * 40, created=1_795_417_201)
    assert other.candidate in OTHERS
    cluster.apply(other)
    cluster.add_version(OTHERS[0], replicas=1)
    metadata = {"name": "coredns", "namespace": "kube-system"}
    cluster.api.add({**cluster.api.get("Deployment", cluster.plan.spec.namespace, OTHERS[0]), "metadata": metadata})
    return cluster


NAMED = [
    json.dumps({"stable": "payments", "candidate": name}) for name in (*OTHERS, "../../kube-system/deployments/coredns")
]


@pytest.mark.parametrize("router", ["gateway", "replicas"])
@settings(deadline=None, max_examples=60)
@example(record={VERSIONS: NAMED[0]}, spec={})
@example(record={VERSIONS: NAMED[0], PHASE: routes.BRAKED}, spec={})
@example(record={VERSIONS: NAMED[1], PHASE: routes.BRAKED}, spec={})
@example(record={VERSIONS: NAMED[2], PHASE: routes.BRAKED}, spec={"leaseDurationSeconds": 2**31 - 1})
@given(record=records(), spec=st.dictionaries(st.sampled_from(["holderIdentity", "leaseDurationSeconds"]), JSON))
def test_guard_changes_no_object_of_others_for_any_record_and_lease(
    router: str, record: dict[str, str], spec: dict[str, Any]
) -> None:
    lease = f"{MIN_LEASE_SECONDS}s"  # the guard looks every second until it has lapsed
    gateway = router == "gateway"
    plan = make_plan(make_spec(lease=lease)) if gateway else planned(lease=lease)
    cluster = with_others(ServiceCluster.at_share(plan, 25) if gateway else ReplicasCluster.at_share(plan, 50))
    for key, value in record.items():
        cluster.annotate(key, value)
    cluster.api.edit("Lease", cluster.plan.spec.namespace, cluster.lease_name, lambda lease: lease["spec"].update(spec))
    before = beside(cluster)
    Post(cluster).passes(cluster.plan.spec.lease + 2)
    assert beside(cluster) == before
    allowed = (cluster.plan.spec.route.name, cluster.plan.candidate)
    assert all(request.path.rsplit("/", 1)[-1] in allowed for request in cluster.api.writes if request.done)
