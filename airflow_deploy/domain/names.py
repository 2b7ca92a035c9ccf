"""The names of all that a deployment creates, digests of texts, and the quoting of strings for PromQL.

All names are derived from the run, so a task that runs twice uses the same names.
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
    """Return the unix seconds in a deployment's id; 0 if the text is not such an id."""
    match = re.fullmatch(r"DEP-([0-9]{1,12})-[0-9a-f]{8}", deployment_id)
    return int(match[1]) if match else 0


def image_tag(registry: str, service: str, commit: str, unix_seconds: int) -> str:
    """Return the image's tag, ``<registry>/<service>:<commit>-<unix seconds>``.

    :raises ValueError: ``commit`` is not a full hash.
    """
    if not FULL_COMMIT.fullmatch(commit):
        raise ValueError(f"commit must be a full hash, got {commit!r}")
    return f"{registry}/{service}:{commit}-{unix_seconds}"


def version_name(service: str, commit: str, unix_seconds: int) -> str:
    """Return ``<service>-<commit7>-<unix seconds>``, the name of a version's Deployment, Service and ConfigMap."""
    return f"{service}-{commit[:7]}-{unix_seconds}"


SHADOW = "shadow"
"""Name of the stage that sends copies of requests, and of its task group."""
MIRROR_SUFFIX = f"-{SHADOW}"


def mirror_name(version: str) -> str:
    """Return the name of a version's mirror, the object that copies requests to it. Its Service has another name."""
    return f"{version}{MIRROR_SUFFIX}"


def promql_string(value: str) -> str:
    """Return any text as a PromQL string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def promql_regex_literal(value: str) -> str:
    """Return an RE2 pattern that matches ``value`` alone. Quote it with ``promql_string`` before use."""
    return re.sub(r"([.+*?()|\[\]{}^$\\])", r"\\\1", value)


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
