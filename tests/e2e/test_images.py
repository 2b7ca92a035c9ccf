"""Images of the Dockerfiles that ``airflow-deploy dockerfile`` prints, built and run on the real stack."""

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.python_base import VERSION, import_python
from tests.e2e.terminal import run
from tests.stack.access import kubectl
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.layout import CACHE
from tests.stack.sample.base_image import import_base

NAMESPACE = "generated"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

GO = {
    "go.mod": "module example.com/generated\n\ngo 1.26\n",
    "cmd/server/main.go": """\
package main

import (
	"net/http"
	"os"
	"time"
)

func main() {
	if _, err := time.LoadLocation("Europe/Zurich"); err != nil {
		panic(err)
	}
	if err := os.WriteFile("/tmp/mine", nil, 0o600); err != nil {
		panic(err)
	}
	panic(http.ListenAndServe(":8080", http.FileServer(http.Dir("/tmp"))))
}
""",
}
PYTHON = {
    ".python-version": f"{VERSION}\n",
    "requirements.txt": "# nothing\n",
    "Procfile": 'web: python serve.py "a # b"\n',
    "serve.py": """\
import http.server, pathlib, sys

assert sys.argv[1:] == ["a # b"] and sys.prefix == "/venv", (sys.argv, sys.prefix)
(pathlib.Path.home() / "mine").touch()
http.server.ThreadingHTTPServer(("", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
""",
}

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "generated", "namespace": NAMESPACE},
    "spec": {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}],
    },
}
CONTAINER = {
    "name": "app",
    "imagePullPolicy": "Always",  # an earlier session may have left an image under the same tag
    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
}


@pytest.fixture
def restricted(stack: StackInfo) -> Iterator[None]:
    """Make a namespace that admits only pods that ask for no privilege."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait")


@pytest.mark.usefixtures("restricted")
@pytest.mark.parametrize("tree", [GO, PYTHON], ids=["go", "python"])
def test_an_image_of_a_generated_dockerfile_serves_under_pod_security_restricted(
    stack: StackInfo, tmp_path: Path, tree: dict[str, str]
) -> None:
    for name, text in {**tree, ".env": "SECRET=1\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)  # as a strict mask leaves it
    made = {option: run(stack, "dockerfile", tmp_path, *option) for option in ((), ("--ignore",))}
    assert [done.returncode for done in made.values()] == [0, 0]
    (tmp_path / "Dockerfile").write_text(made[()].stdout)
    (tmp_path / ".dockerignore").write_text(made[("--ignore",)].stdout)

    client = docker.DockerClient(base_url=stack.docker_url)
    import_base(client, CACHE)
    import_python(client)
    tag = f"{stack.registry}/generated:{tmp_path.name}"
    image, _ = client.images.build(path=str(tmp_path), tag=tag, rm=True, buildargs={"COMMIT": COMMIT})
    assert image.labels["org.opencontainers.image.revision"] == COMMIT
    assert image.attrs["Config"]["User"] == "65532:65532"
    pushed = [line for line in client.api.push(tag, stream=True, decode=True) if "error" in line]
    assert pushed == []

    pod = {**POD, "spec": {**POD["spec"], "containers": [{**CONTAINER, "image": tag}]}}  # type: ignore[dict-item]
    kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/generated", "--timeout=60s")
    except StackError:
        pytest.fail(kubectl("-n", NAMESPACE, "get", "pod", "generated", "-o", "jsonpath={.status}"))
