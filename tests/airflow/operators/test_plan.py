"""``plan`` refuses what cannot go well before anything is written."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.git import Repository
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.operators.canary import ClaimRouteOperator
from tests.support.builders import COMMIT, CONF, changed, make_plan
from tests.support.cluster import lead_to
from tests.support.hostile import FIELDS, ODD_TEXTS
from tests.support.kubernetes_api import Object
from tests.support.planning import Planning
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.unit.clients.test_git import Team

FETCHED = Repository.__dict__["fetched"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Planning:
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__ARTIFACT_STORE", f"file://{tmp_path}")
    return Planning(monkeypatch, ServiceCluster(make_plan()))


def test_a_good_request_is_frozen(world: Planning) -> None:
    plan = world.plan()
    assert (plan.stable, plan.stable_port, plan.commit, plan.requester) == ("payments", 80, COMMIT, "ada")
    assert world.steps() == [State.INIT]
    assert world.cluster.api.writes == []


@pytest.mark.parametrize(
    ("selector", "named"),
    [
        ({"app.kubernetes.io/name": "payments"}, False),
        ({"app.kubernetes.io/name": "ledger"}, True),
        ({"app.kubernetes.io/name": "payments", "tier": "web"}, True),
    ],
)
def test_no_service_of_the_teams_selects_the_candidates_pods(
    world: Planning, selector: dict[str, str], named: bool
) -> None:
    """Before the first share, and beside every share, its users would get the candidate's answers."""
    other = {"kind": "Service", "metadata": {"name": "other", "namespace": "shop"}, "spec": {"selector": selector}}
    world.cluster.api.add(other)
    plan = world.plan()
    assert plan.pods_named is named
    selectors = [service["spec"]["selector"] for service in world.cluster.api.all("Service", "shop")]
    assert len(selectors) == 2
    assert not any(one.items() <= plan.pod_labels.items() for one in selectors)


def test_a_version_that_serves_already_is_refused(world: Planning) -> None:
    """The same commit, in a run of the same second: its name is the stable's."""
    candidate = make_plan().candidate
    world.cluster.edit(lambda body: body["spec"]["rules"][0]["backendRefs"][0].update(name=candidate))
    with pytest.raises(RefusedError, match=r"serves already; trigger a new run to deploy it anew"):
        world.plan()
    assert world.steps() == []


def test_a_route_that_a_gitops_tool_would_set_back_is_refused(world: Planning) -> None:

    def sync(body: Object) -> None:
        body["spec"]["rules"][0]["backendRefs"][0]["weight"] = 100

    world.cluster.api.edit("HTTPRoute", "shop", "payments-route", sync, manager="argocd-controller")
    said = r"argocd-controller owns its rules .* let it ignore /spec/rules/\*/backendRefs, .*ignored_by_gitops: true"
    with pytest.raises(RefusedError, match=said):
        world.plan()
    assert (world.steps(), world.cluster.api.writes) == ([], [])
    route = {"name": "payments-route", "ignored_by_gitops": True}
    assert world.plan(route=route).stable == "payments"


def test_a_service_reached_by_several_ports_is_refused(world: Planning) -> None:
    other = {"kind": "Service", "name": "payments", "port": 8443, "weight": 1}
    world.cluster.edit(lambda body: body["spec"]["rules"].append({"backendRefs": [other]}))
    with pytest.raises(RefusedError, match="by several ports"):
        world.plan()
    assert world.steps() == []


def test_a_route_that_two_versions_share_is_refused(world: Planning) -> None:
    other = {"name": "payments-2", "port": 80, "weight": 1}
    world.cluster.edit(lambda body: body["spec"]["rules"][0]["backendRefs"].append(other))
    with pytest.raises(RefusedError, match="give one Service the whole weight"):
        world.plan()


def test_a_route_in_another_deployments_canary_is_refused_with_its_name(world: Planning) -> None:
    other = make_plan(run_id="another")
    world.use(ServiceCluster.at_share(other, 25))
    with pytest.raises(RefusedError, match=f"the deployment {other.deployment_id}/1 is not over: wait until it is"):
        world.plan()


@pytest.mark.parametrize(("seconds", "fits"), [(240, True), (241, False)])
def test_a_condition_that_no_verification_can_wait_for_is_refused(world: Planning, seconds: int, fits: bool) -> None:
    """It would roll every good fix back."""
    conf = changed(CONF, ("incident", "resolved_when", "for"), seconds)
    spec: dict[str, Any] = {"canary": {"bake": 60, "max_bake": 300}}
    if fits:
        assert world.plan(conf, **spec)
    else:
        with pytest.raises(RefusedError, match=r"incident\.resolved_when\.for is 241 s, .* waits 240 s at most"):
            world.plan(conf, **spec)


def test_a_condition_that_prometheus_refuses_is_refused(world: Planning) -> None:
    world.observer.refusal = RefusedError("parse error")
    with pytest.raises(RefusedError, match=r"incident\.resolved_when\.query is not usable: parse error"):
        world.plan()


def test_the_callers_mistake_is_told_before_one_of_the_surroundings(
    world: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.observer, "check", lambda: pytest.fail("the surroundings were asked first"))
    world.observer.refusal = RefusedError("parse error")
    with pytest.raises(RefusedError, match="parse error"):
        world.plan()


def test_a_prometheus_that_is_away_or_takes_too_long_is_asked_again(world: Planning) -> None:
    """Whose fault it is cannot be told; so the query is named."""
    world.observer.refusal = TemporaryError("no answer")
    with pytest.raises(TemporaryError, match=r"incident\.resolved_when\.query is not usable: no answer"):
        world.plan()


@pytest.mark.parametrize("run_after", [-62_135_596_800, -1, 0, 999_999_999])
def test_a_run_of_a_time_that_no_name_can_carry_is_refused(world: Planning, run_after: float) -> None:
    """The caller may set run_after to any time."""
    with pytest.raises(RefusedError, match=r"^run_after: the run is dated before .* trigger a new one without"):
        world.plan(run_after=run_after)
    assert world.steps() == []


def test_a_run_that_is_dated_before_the_latest_deployment_is_refused(world: Planning) -> None:
    """The verification looks at the latest one by its id: this one it would never see."""
    earlier = world.plan()
    Artifacts(earlier).write(f"{earlier.deployment_id}.json", "{}")
    assert world.plan().deployment_id == earlier.deployment_id  # the same run, tried again
    assert world.plan(run_after=earlier.created + 1)
    with pytest.raises(RefusedError, match=r"^run_after: the run is dated before the latest deployment of payments"):
        world.plan(run_after=earlier.created - 1)


def test_a_folder_among_the_artifacts_that_is_no_deployment_is_ignored(world: Planning, tmp_path: Path) -> None:
    (tmp_path / "payments" / "notes").mkdir(parents=True)
    assert world.plan()


class TestCommits:
    """On a real repository: what no allowed branch contains is refused before anything is read or written."""

    @pytest.fixture
    def team(self, world: Planning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
        monkeypatch.setattr(Repository, "fetched", FETCHED)
        team = Team.create(tmp_path / "team")
        team.commit(Dockerfile="FROM scratch\n")
        return team

    def plan(self, world: Planning, team: Team, commit: str) -> DeploymentPlan:
        return world.plan(changed(CONF, ("commit",), commit), source=team.source().model_dump(mode="json"))

    def test_one_of_an_allowed_branch_is_planned_by_its_full_hash(self, world: Planning, team: Team) -> None:
        head = team.git("rev-parse", "HEAD")
        assert self.plan(world, team, head[:7]).commit == head

    @pytest.mark.parametrize(
        "made",
        [
            ["commit-tree", "HEAD^{tree}", "-m", "of no branch"],
            ["rev-parse", "HEAD^{tree}"],
            ["rev-parse", "HEAD:Dockerfile"],
            ["hash-object", "-w", "-t", "tag", "../tag"],
        ],
        ids=["commit", "tree", "file", "tag"],
    )
    @pytest.mark.parametrize("digits", [7, 40])
    def test_any_other_object_is_refused(
        self, world: Planning, team: Team, tmp_path: Path, made: list[str], digits: int
    ) -> None:
        head = team.git("rev-parse", "HEAD")
        (tmp_path / "tag").write_text(f"object {head}\ntype commit\ntag v1\ntagger t <t@example.com> 0 +0000\n\nv1\n")
        other = team.git(*made)[:digits]
        with pytest.raises(RefusedError, match=f"^conf: commit {other} is not on main; send a commit that is$"):
            self.plan(world, team, other)
        assert (world.steps(), world.cluster.api.writes) == ([], [])

    @pytest.mark.parametrize("commit", [text for text in ODD_TEXTS if not FIELDS[("commit",)].rule(text)], ids=ascii)
    def test_no_text_of_another_kind_reaches_git(
        self, world: Planning, monkeypatch: pytest.MonkeyPatch, commit: str
    ) -> None:
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
        with pytest.raises(RefusedError, match=r"^conf: commit is not valid"):
            world.plan(changed(CONF, ("commit",), commit))


class TestClaim:
    def claim(self, plan: DeploymentPlan, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> str:
        lead_to(cluster.api, monkeypatch)
        return ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(Run().at("claim_route"))

    def test_claimed_twice_the_first_claim_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan()
        cluster = ServiceCluster(plan)
        owner = self.claim(plan, cluster, monkeypatch)
        assert self.claim(plan, cluster, monkeypatch) == owner == cluster.claim
        assert cluster.writes == 1

    @pytest.mark.parametrize("phase", ["braked", "settled", "verified", "abandoned"])
    def test_a_run_that_is_over_is_not_taken_up_again(self, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        plan = make_plan()
        cluster = ServiceCluster.at_share(plan, 0).annotate("airflow-deploy/phase", phase)
        with pytest.raises(FencedError, match=f"is {phase} by this deployment; trigger a new run"):
            self.claim(plan, cluster, monkeypatch)

    def test_a_version_that_serves_already_is_not_claimed_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(stable=make_plan().candidate)
        cluster = ServiceCluster(plan)
        with pytest.raises(FencedError, match="serves already"):
            self.claim(plan, cluster, monkeypatch)
        assert cluster.writes == 0
