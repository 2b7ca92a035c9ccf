"""``plan``: check everything that can be checked without writing anything, and freeze the deployment."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.git import Repository
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import refusing
from airflow_deploy.clients.kubernetes.routes import find_route
from airflow_deploy.clients.kubernetes.versions import list_selectors
from airflow_deploy.domain.config.request import DeployRequest, parse_request
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.config.spec_file import parse_spec
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.names import triggered_at
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.rollout.autoscalers import check_autoscalers
from airflow_deploy.rollout.preflight import check_rollback_possible
from airflow_deploy.rollout.routers import steps_of
from airflow_deploy.tasks.base import DeployOperator, record_step
from airflow_deploy.tasks.frozen import PLANNED, freeze_plan


class PlanDeploymentOperator(DeployOperator):
    """Validate the conf and the surroundings, and freeze the plan.

    :param spec: the service's spec as JSON, frozen into the DAG when its YAML was read.
    """

    def __init__(self, *, spec: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def execute(self, context: Context) -> str:
        """Return the deployment's id.

        :raises RefusedError: one sentence that names the field and the remedy.
        """
        run = context["dag_run"]
        request = parse_request(run.conf)
        spec = parse_spec(self.spec, f"{run.dag_id}'s YAML")
        with Repository.fetched(spec.source) as repository:
            commit = repository.resolve(request.commit)
        with refusing(spec.namespace):
            return self._plan(context, spec, request, commit)

    def _plan(self, context: Context, spec: DeploymentSpec, request: DeployRequest, commit: str) -> str:
        """Check the cluster and the metrics, freeze the plan, and return the deployment's id."""
        run, cluster = context["dag_run"], connect(spec.connections.kubernetes)
        route = find_route(cluster, *spec.place)
        _refuse_gitops(route, spec)
        steps = steps_of(spec)
        plan = DeploymentPlan(
            dag_id=run.dag_id,
            run_id=run.run_id,
            requester=run.triggering_user_name or None,
            created=int(run.run_after.timestamp()),
            spec=spec,
            request=request,
            commit=commit,
            **steps.find_stable(cluster, spec, route),
        )
        plan = self._behind_the_route_alone(cluster, plan)
        _refuse_backdated(plan)
        if plan.candidate == plan.stable:
            raise RefusedError(
                f"conf: commit {commit[:12]} of this run serves already; trigger a new run to deploy it anew"
            )
        steps.check_plan(cluster, plan, route)
        observer = Observer.connect(plan)
        _check_resolved_when(observer, request, spec)
        observer.check()
        check_rollback_possible(cluster, plan)
        check_autoscalers(cluster, plan)
        record_step(
            context,
            State.INIT,
            f"{plan.requester or 'an unauthenticated request'} asked for {commit[:12]} to end {request.incident.id}",
        )
        does = f"replaces {plan.stable}" if plan.stable else "is the first: no version serves"
        self.log.info("%s: %s %s", plan.deployment_id, plan.candidate, does)
        freeze_plan(context, plan, PLANNED)
        return plan.deployment_id

    def _behind_the_route_alone(self, cluster: KubernetesClient, plan: DeploymentPlan) -> DeploymentPlan:
        """Return a plan whose pods no Service of the team's selects: their share would not be the route's to give."""
        named, unnamed = plan, plan.model_copy(update={"pods_named": False})
        selectors = [selector.items() for selector in list_selectors(cluster, plan.spec.namespace)]
        # With router: replicas, they carry what their own Service asks for, beside all other labels.
        if not any(one <= named.pod_labels.items() and not one <= unnamed.pod_labels.items() for one in selectors):
            return named
        self.log.info("a Service selects pods by their name alone: those of %s do not carry it", plan.candidate)
        return unnamed


def _refuse_backdated(plan: DeploymentPlan) -> None:
    """The caller may have set run_after. Names carry it, and what verifies deployments takes the latest one by it."""
    latest = max(map(triggered_at, Artifacts(plan).others()), default=0)
    if plan.created < max(10**9, latest):
        raise RefusedError(
            f"run_after: the run is dated before the latest deployment of {plan.spec.service}; trigger a new one"
            " without run_after"
        )


def _refuse_gitops(route: TeamRoute, spec: DeploymentSpec) -> None:
    if (managers := route.gitops_managers()) and not spec.route.ignored_by_gitops:
        # It owns them still when it ignores them: only the team knows.
        raise RefusedError(
            f"route {route.name}: {' and '.join(managers)} owns its {route.DIVIDES} and would set back what"
            f" divides the traffic; let it ignore {route.IGNORED}, then set route.ignored_by_gitops: true"
        )


def _check_resolved_when(observer: Observer, request: DeployRequest, spec: DeploymentSpec) -> None:
    if condition := request.incident.resolved_when:
        longest = spec.canary.max_bake - spec.canary.bake
        if condition.for_ > longest:
            raise RefusedError(
                f"conf: incident.resolved_when.for is {condition.for_} s, and the verification waits {longest} s at"
                " most; shorten it, or raise canary.max_bake"
            )
        try:
            observer.number(condition.query)
        except (RefusedError, TemporaryError) as error:
            raise type(error)(f"conf: incident.resolved_when.query is not usable: {error}") from error
