"""Names of everything a deployment makes, what texts are known by, and the quoting of strings that reach PromQL.

All names are derived from the run, so a task that runs twice names the same things.
"""

import hashlib
import re

SERVICE_PATTERN = r"[a-z]([-a-z0-9]*[a-z0-9])?"
SERVICE_MAX = 44
"""``<service>-<commit7>-<unix seconds>`` must fit into the 63 characters of a Kubernetes name."""

COMMIT_PATTERN = r"[0-9a-f]{6,64}"
FULL_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


DAG_PREFIX = "deploy_"


def deployment_id(dag_id: str, run_id: str, unix_seconds: int) -> str:
    """Return the deployment's id, ``DEP-<unix seconds>-<8 hex digits of the run's identity>``."""
    identity = hashlib.sha256(f"{dag_id}\0{run_id}".encode()).hexdigest()[:8]
    return f"DEP-{unix_seconds}-{identity}"


def triggered_at(deployment_id: str) -> int:
    """Return the unix seconds in a deployment's id; 0 where the text is none."""
    match = re.fullmatch(r"DEP-([0-9]{1,12})-[0-9a-f]{8}", deployment_id)
    return int(match[1]) if match else 0


def image_tag(registry: str, service: str, commit: str, unix_seconds: int) -> str:
    """Return ``<registry>/<service>:<commit>-<unix seconds>``; a tag that a commit does not determine is impossible."""
    if not FULL_COMMIT.fullmatch(commit):
        raise ValueError(f"commit must be a full hash, got {commit!r}")
    return f"{registry}/{service}:{commit}-{unix_seconds}"


def version_name(service: str, commit: str, unix_seconds: int) -> str:
    """Return ``<service>-<commit7>-<unix seconds>``, the name of a version's Deployment, Service and ConfigMap."""
    return f"{service}-{commit[:7]}-{unix_seconds}"


SHADOW = "shadow"
"""The stage that gives copies, and its group of tasks."""
MIRROR_SUFFIX = f"-{SHADOW}"


def mirror_name(version: str) -> str:
    """Return the name of what copies requests to a version; not the version's own, which its Service has."""
    return f"{version}{MIRROR_SUFFIX}"


def promql_string(value: str) -> str:
    """Quote any text as a PromQL string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def promql_regex_literal(value: str) -> str:
    """Escape text so that an RE2 pattern matches it and nothing else (still to be quoted by ``promql_string``)."""
    return re.sub(r"([.+*?()|\[\]{}^$\\])", r"\\\1", value)


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
