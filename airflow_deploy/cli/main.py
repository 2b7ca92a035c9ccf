"""The command ``airflow-deploy``: deployments from the terminal, over Airflow's REST API, and what they need first."""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_deploy import __version__
from airflow_deploy.clients.airflow_rest.api import AirflowApi
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun, RunSnapshot
from airflow_deploy.dockerfile.generate import generate
from airflow_deploy.domain.config.request import MAX_BYTES
from airflow_deploy.domain.errors import DeployError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.result import DeployResult
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.values import printable
from airflow_deploy.domain.workloads.manifests import render_guard, render_rbac
from airflow_deploy.rollout.analysis.replay import replay_file
from airflow_deploy.rollout.guard import Guard, connect

EXIT_VERIFIED, EXIT_UNDONE, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
"""The exit codes."""

EXIT_CODES = """\
exit codes:
  0    VERIFIED; or, without waiting, triggered; or printed; or a guard that was ended by SIGTERM
  1    ROLLED_BACK or FAILED: look at the run's page
  2    REJECTED; or refused: the arguments, the conf, the login, the repository
  3    Airflow cannot be reached
  130  interrupted by Ctrl-C; the deployment goes on
"""
ENVIRONMENT = """\
environment:
  AIRFLOW_DEPLOY_URL       where Airflow is, such as https://airflow.example.com
  AIRFLOW_DEPLOY_TOKEN     a token of its API; or else
  AIRFLOW_DEPLOY_USER      and
  AIRFLOW_DEPLOY_PASSWORD  a login that a token is asked for with
"""

TRIGGER = """\
Trigger the deployment of a fix, and print the run's id.

The conf is the JSON that Airflow's REST API takes. It is checked here first: a conf with a mistake, or one whose
safety gate does not say DEPLOY, reaches nobody.

example:
  $ cat fix.json
  {"commit": "abc1234",
   "incident": {"id": "INC-001", "title": "Payments time out", "severity": "critical"},
   "safety_gate": {"recommendation": "DEPLOY", "tests": {"passed": 127, "total": 127}, "coverage": 0.85},
   "change": {"files": 3, "lines": 41}}
  $ airflow-deploy trigger payments --conf fix.json --wait
"""
WATCH = """\
Show a deployment as it goes on, until it is over; the exit code says how it ended.

example:
  $ airflow-deploy watch payments "$(airflow-deploy trigger payments --conf fix.json)"
"""
DOCKERFILE = """\
Print a Dockerfile for a repository that has none: for Go, where it has a go.mod and one package main, and for
Python, where it has a requirements.txt or pyproject.toml, and says its version and how it is started. What decided
is printed to the standard error; what cannot be told is refused, with what to add.

example:
  $ airflow-deploy dockerfile . > Dockerfile
  $ airflow-deploy dockerfile . --ignore > .dockerignore
"""
RBAC = """\
Print the least that deployments need in one namespace of services, as a Role and its binding to the ServiceAccounts
that Airflow's workers and triggerers have in the cluster.

example:
  $ airflow-deploy rbac payments --service-account airflow:airflow-worker \
      --service-account airflow:airflow-triggerer | kubectl apply -f -
"""
GUARD = """\
Return the traffic of deployments that nobody looks at any more, because Airflow has died.

While a deployment gives its candidate traffic, each completed look of its watch renews a Lease in the cluster. Where
one has not changed for as long as it lasts (lease in the service's YAML, 45 s by default), the guard gives the version
before all traffic again, in one write that is fenced as every other, and leaves its reason on the route: when Airflow
comes back, the run finds it and ends ROLLED_BACK. While the guard itself cannot see the Leases, no time passes for it.

Run it where Airflow's death does not reach it: in the cluster (--manifest prints what to apply; with --replicas also
for services of router: replicas, whose pods it must be able to take away), or beside Airflow with KUBECONFIG. Any
number of them may run. It needs no Airflow, goes on whatever the cluster answers, and ends at SIGTERM.

example:
  $ airflow-deploy guard --manifest registry.example.com/airflow:3.3 --home airflow | kubectl apply -f -
  $ KUBECONFIG=guard.kubeconfig airflow-deploy guard --namespace payments --namespace orders
  2026-11-23T17:00:00Z INFO    guards       payments, orders
  2026-11-23T17:31:09Z WARNING returned     payments/payments: nobody has looked for 46 s; owner DEP-…/7, from …
"""
JUDGE = "Judge again what was judged."
REPLAY = """\
Judge the recorded evidence of a deployment again, offline, and say whether each verdict is what follows from the
recorded counts, byte for byte. Whatever was changed, is missing or is unknown is named, with its line.

The evidence lies beside a deployment's other artifacts: one file of JSON lines for the watch, for each gate and for
the verification. Its first line names the version of the algorithm; another version than this one's is refused.

example:
  $ airflow-deploy judge replay DEP-1795442654-5e0ab2f1/evidence_*/*.jsonl
  DEP-…/evidence_…/canary_5.gate-8d2a6f01.jsonl: all 21 lines agree, HEALTHY at last
  DEP-…/evidence_…/watch-1f0be2c7.jsonl: line 12: verdict is 'HEALTHY', recomputed 'BREACHED'
"""
REPLAY_EXIT_CODES = """\
exit codes:
  0    all lines of all files agree
  1    one does not, or is no evidence
"""
EPILOGS = {
    DOCKERFILE: EXIT_CODES,
    RBAC: EXIT_CODES,
    GUARD: EXIT_CODES,
    JUDGE: REPLAY_EXIT_CODES,
    REPLAY: REPLAY_EXIT_CODES,
}
"""What stands at the end of a help text, where that is not of Airflow's environment."""

MOST_DIFFERENCES = 5
"""As many are shown of one file: after the first, others follow from it."""

SHOWN = frozenset({"running", "deferred", "up_for_retry", "success", "failed"})
"""The states of a task that people want to hear of."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        return command(given)
    except DeployError as error:
        print(f"airflow-deploy: {error}", file=sys.stderr)
        return EXIT_UNREACHABLE if isinstance(error, TemporaryError) else EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    about = "Progressive delivery to Kubernetes, run by Apache Airflow."
    parser = _described(argparse.ArgumentParser, about, prog="airflow-deploy")
    parser.add_argument("--version", action="version", version=f"airflow-deploy {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    trigger = _described(commands.add_parser, TRIGGER, name="trigger", help="trigger a deployment")
    trigger.add_argument("service", metavar="SERVICE", help="as in its YAML")
    trigger.add_argument("--conf", required=True, metavar="FILE", help="the request as JSON; - reads standard input")
    trigger.add_argument("--wait", action="store_true", help="watch it until it is over")
    trigger.set_defaults(command=_trigger)

    watch = _described(commands.add_parser, WATCH, name="watch", help="show a deployment as it goes on")
    watch.add_argument("service", metavar="SERVICE", help="as in its YAML")
    watch.add_argument("run_id", metavar="RUN_ID", help="as trigger printed it")
    watch.set_defaults(command=_watch)
    for reaching in (trigger, watch):
        reaching.add_argument("--url", help="of Airflow; by default AIRFLOW_DEPLOY_URL")

    dockerfile = _described(commands.add_parser, DOCKERFILE, name="dockerfile", help="print a Dockerfile")
    dockerfile.add_argument("path", metavar="PATH", type=Path, help="the repository's folder")
    dockerfile.add_argument("--ignore", action="store_true", help="print the .dockerignore that goes with it")
    dockerfile.add_argument("--digest", help="pin the base image: sha256:…, as docker pull shows it")
    dockerfile.set_defaults(command=_dockerfile)

    rights = _described(commands.add_parser, RBAC, name="rbac", help="print the rights that deployments need")
    rights.add_argument("namespace", metavar="NAMESPACE", help="of the services")
    rights.add_argument(
        "--service-account",
        required=True,
        action="append",
        metavar="NAMESPACE:NAME",
        help="who gets them; once for each",
    )
    rights.set_defaults(command=_rbac)

    watcher = _described(commands.add_parser, GUARD, name="guard", help="return what nobody looks at any more")
    watcher.add_argument("--namespace", action="append", metavar="NAMESPACE", help="of services; all without it")
    watcher.add_argument("--manifest", metavar="IMAGE", help="print what runs it in the cluster, with its rights")
    watcher.add_argument("--replicas", action="store_true", help="with rights for services of router: replicas too")
    watcher.add_argument("--home", default="airflow", metavar="NAMESPACE", help="where the manifest puts it: airflow")
    watcher.set_defaults(command=_guard)

    judge = _described(commands.add_parser, JUDGE, name="judge", help="judge recorded evidence again")
    again = judge.add_subparsers(title="commands", required=True, metavar="COMMAND")
    replay = _described(again.add_parser, REPLAY, name="replay", help="recompute every verdict offline")
    replay.add_argument("files", metavar="FILE", nargs="+", type=Path, help="of evidence, in JSON lines")
    replay.set_defaults(command=_replay)
    return parser


def _described(make: Callable[..., argparse.ArgumentParser], text: str, **arguments: Any) -> argparse.ArgumentParser:
    return make(
        description=text,
        epilog=EPILOGS.get(text, f"{ENVIRONMENT}\n{EXIT_CODES}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **arguments,
    )


def _trigger(given: argparse.Namespace) -> int:
    conf = _read_conf(given.conf)
    run = DeploymentRun.start(AirflowApi.from_environment(given.url), given.service, conf)
    print(run.run_id, flush=True)
    print(f"triggered: {run.page}", file=sys.stderr)
    return _follow(run) if given.wait else EXIT_VERIFIED


def _watch(given: argparse.Namespace) -> int:
    return _follow(DeploymentRun(AirflowApi.from_environment(given.url), given.service, given.run_id))


def _dockerfile(given: argparse.Namespace) -> int:
    made = generate(given.path, given.digest)
    for reason in made.because:
        print(reason, file=sys.stderr)
    print(made.dockerignore if given.ignore else made.dockerfile, end="")
    return EXIT_VERIFIED


def _rbac(given: argparse.Namespace) -> int:
    print(render_rbac(given.namespace, given.service_account), end="")
    return EXIT_VERIFIED


def _guard(given: argparse.Namespace) -> int:
    namespaces = given.namespace or []
    if given.manifest:
        print(render_guard(given.manifest, given.home, namespaces, replicas=given.replicas), end="")
        return EXIT_VERIFIED
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ", level="INFO")
    logging.Formatter.converter = time.gmtime
    # A pipe, and no event: a signal may come while its own thread holds the event's lock, and would wait for ever.
    end, told = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(told, b"."))
    Guard(connect(), namespaces).run(lambda seconds: bool(select.select([end], [], [], seconds)[0]))
    return EXIT_VERIFIED


def _replay(given: argparse.Namespace) -> int:
    agreed = True
    for path in given.files:
        name, judged = printable(str(path), 300), replay_file(path)
        for difference in judged.differences[:MOST_DIFFERENCES]:
            print(f"{name}: {printable(difference, 500)}")
        if hidden := judged.differences[MOST_DIFFERENCES:]:
            print(f"{name}: and {len(hidden)} more")
        if not judged.differences:
            print(f"{name}: all {judged.lines} lines agree, {judged.verdict or 'without a verdict'} at last")
        agreed = agreed and not judged.differences
    return EXIT_VERIFIED if agreed else EXIT_UNDONE


def _read_conf(name: str) -> Any:
    """Return the JSON in a file, or in standard input.

    :raises RefusedError: it cannot be read, or is no JSON.
    """
    try:
        if name == "-":
            text = sys.stdin.read(MAX_BYTES + 1)
        else:
            with Path(name).open(encoding="utf-8") as file:
                text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise RefusedError(f"conf: is larger than {MAX_BYTES} bytes; shorten its texts")
        return json.loads(text)
    except OSError as error:
        raise RefusedError(f"conf: {printable(name)} cannot be read ({error.strerror}); correct --conf") from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"conf: is not valid JSON ({printable(str(error), 120)}); correct it") from error


def _follow(run: DeploymentRun) -> int:
    tasks: dict[str, str | None] = {}
    state: State | None = None
    asked: str | None = None
    seen: RunSnapshot | None = None
    for seen in run.follow():
        changed = [f"{task} {now}" for task, now in seen.tasks.items() if now in SHOWN and tasks.get(task) != now]
        if changed or seen.state != state:
            print(f"{datetime.now(UTC):%H:%M:%S}  {seen.state:<17}  {printable(', '.join(changed), 400)}", flush=True)
        if (page := run.question_page(seen)) and page != asked:
            print(f"          a person is asked, and silence is a no: {page}", flush=True)
        tasks, state, asked = dict(seen.tasks), seen.state, page
    result = run.result(seen)
    for line in _summary(result):
        print(line, flush=True)
    return {State.VERIFIED: EXIT_VERIFIED, State.REJECTED: EXIT_REFUSED}.get(result.state, EXIT_UNDONE)


def _summary(result: DeployResult) -> list[str]:
    rows = {
        "state": result.state,
        "reason": result.reason,
        "image": result.image_tag,
        "artifacts": result.artifact_path,
        **{verdict.task: f"{verdict.verdict}: {verdict.reason}" for verdict in result.canary},
        "page": result.page,
    }
    return [f"{name:<16}  {printable(value, 500)}" for name, value in rows.items() if value]
