"""All that a deployment could write anywhere, so that two moments can be compared.

What other tests make meanwhile is left out, by name.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import requests

from tests.e2e.world import OTHERS, World
from tests.stack.access import kubectl

KINDS = (
    "configmaps,deployments,horizontalpodautoscalers,httproutes,jobs,networkpolicies,poddisruptionbudgets,replicasets,"
    "rolebindings,secrets,serviceaccounts,services"
)
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def snapshot(world: World) -> dict[str, Any]:
    """Return the objects of the service's namespace, all tags of the registry with their digests, and all artifacts."""
    return {
        "namespaces": _namespaces(),
        "objects": _objects(world),
        "images": _images(world),
        "artifacts": _artifacts(world),
    }


def _namespaces() -> list[str]:
    found = kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()
    return sorted(name for name in found if name not in OTHERS)


def _objects(world: World) -> dict[str, Any]:
    """Every object as declared, and the time of each manager's last write: a no-op is a write as well."""
    found = json.loads(kubectl("-n", world.service, "get", KINDS, "-o", "json", "--show-managed-fields"))
    return {f"{item['kind']}/{item['metadata']['name']}": _declared(item) for item in found["items"]}


def _declared(item: dict[str, Any]) -> dict[str, Any]:
    metadata = {**item["metadata"], "resourceVersion": None}  # it counts the writes of the status, too
    metadata["managedFields"] = [
        entry for entry in metadata.get("managedFields", []) if entry.get("subresource") != "status"
    ]
    return {**item, "metadata": metadata, "status": None}


def _images(world: World) -> dict[str, str]:
    def get(path: str) -> requests.Response:
        answer = requests.get(f"{world.info.registry_url}/v2/{path}", headers={"Accept": MANIFEST}, timeout=10)
        answer.raise_for_status()
        return answer

    names = [name for name in get("_catalog").json()["repositories"] if name.split("/")[0] not in OTHERS]
    tags = {name: get(f"{name}/tags/list").json()["tags"] or [] for name in names}
    return {
        f"{name}:{tag}": get(f"{name}/manifests/{tag}").headers["Docker-Content-Digest"]
        for name, found in tags.items()
        for tag in found
    }


def _artifacts(world: World) -> dict[str, str]:
    store = Path(world.info.artifacts)
    return {
        str(path.relative_to(store)): sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in store.rglob("*")
        if path.relative_to(store).parts[0] not in OTHERS
    }
