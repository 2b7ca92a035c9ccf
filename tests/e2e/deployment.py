"""One deployment of a service that tests share, from its trigger to its end."""

import shutil
import time
from pathlib import Path
from typing import Any

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.e2e.trail import audited, check_consistent, states, summary
from tests.e2e.world import World, weights_of
from tests.stack.access import kubectl
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.load import Request

RESTORED_WITHIN = 10
"""Seconds from the verdict until no user is sent to the candidate any more, as promised."""


def afresh(world: World) -> World:
    """Return the service without what an earlier test has left."""
    World.end_runs(world.info, world.service)
    forget(world.info, world.service)
    return world


def forget(info: StackInfo, service: str) -> None:
    """Remove what the service's deployments have left: history, which lowers confidence, and pods without traffic."""
    shutil.rmtree(Path(info.artifacts) / service, ignore_errors=True)
    serving = {f"deployment.apps/{name}" for name, weight in weights_of(service).items() if weight}
    for name in set(kubectl("-n", service, "get", "deployments", "-o", "name").split()) - serving:
        kubectl("-n", service, "scale", name, "--replicas=0")


def share_of_team(service: str) -> int:
    """Return the share of the traffic that the team's own version has; 0 if the service is gone."""
    try:
        return weights_of(service).get(service, 0)
    except StackError:
        return 0


class Deployment:
    """One deployment, and what became of the requests since it was triggered."""

    def __init__(self, world: World, commit: str) -> None:
        self._world, self._began = world, time.time()
        self.run = world.deploy(commit)

    def exposed(self) -> str:
        """Wait until the candidate has traffic, and return its name."""
        candidate = DeploymentPlan.load(self._world.plan(self.run)).candidate
        self._world.until(lambda: self._world.weights().get(candidate), f"{candidate} has traffic")
        return candidate

    def ended(self) -> dict[str, Any]:
        """Wait until the run is over, and return the summary; what it left fits together."""
        self.state = self._world.ended(self.run)
        self.folder = audited(self._world, self.run)
        check_consistent(self.folder)
        self.summary = summary(self.folder)
        return self.summary

    def rolled_back(self, verdict: str, *gates: str) -> None:
        """Check that the watch rolled it back, for what one of the gates said."""
        self.ended()
        assert (self.state, self.summary["state"]) == ("failed", "ROLLED_BACK")
        assert states(self.folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
        watch = self.summary["judgements"]["watch"]
        said = any(gate in watch["reason"] for gate in gates)
        assert (watch["verdict"], said) == (verdict, True), watch["reason"]
        weights = self._world.weights()
        assert (weights[self.summary["stable"]], weights[self.summary["candidate"]]) == (100, 0)

    def verified(self) -> None:
        """Check that it ended as a fix that holds."""
        self.ended()
        assert (self.state, self.summary["state"]) == ("success", "VERIFIED")

    def requests(self) -> list[Request]:
        return [request for request in self._world.requests() if request.sent >= self._began]

    def failed(self) -> list[Request]:
        return [request for request in self.requests() if request.failed]

    def answers(self) -> tuple[list[Request], list[Request]]:
        """Return what the candidate answered, and what became of all other requests."""
        mine = [request for request in self.requests() if request.version == self.summary["candidate"]]
        return mine, [request for request in self.requests() if request.version != self.summary["candidate"]]
