"""What comes from Go modules: the Kubernetes binary, the sandbox's pause program, the Gateway API's CRDs, and Compose.

Compiling takes minutes, so the results stay in the user's cache folder under a key made of all that went
into them: the versions and hashes of every module, and the sources.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.stack.errors import StackError
from tests.stack.layout import CACHE, LOG, MARKER, STATE
from tests.stack.processes import environment

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.3"

COMPOSE = "docker-compose"

_KUBERNETES = Path(__file__).parent / "kube"
_COMPOSE = Path(__file__).parent / "compose"
_REPRODUCIBLE = ("-trimpath", "-buildvcs=false")
_VARIABLES = "k8s.io/component-base/version"
_COMPOSE_MODULE = "github.com/docker/compose/v5"


def kubernetes_version() -> str:
    """The version that our Go module asks for, such as ``v1.36.3``."""
    return _required(_KUBERNETES, "k8s.io/kubernetes")


@cache
def kubernetes() -> Path:
    """The folder of the servers and ``pause``, each under its own name; it may be missing."""
    return CACHE / f"kubernetes-{kubernetes_version()}-{_digest(_KUBERNETES)}"


@cache
def compose() -> Path:
    """The folder of Docker Compose; it may be missing."""
    return CACHE / f"compose-{_required(_COMPOSE, _COMPOSE_MODULE)}-{_digest(_COMPOSE)}"


def gateway_crds() -> Path:
    """The folder of the Gateway API's standard CRDs; it may be missing."""
    return CACHE / GATEWAY_API.replace("/", "_")


def go_is_needed() -> bool:
    """Whether anything is still to be made with Go."""
    return not (kubernetes().is_dir() and gateway_crds().is_dir())


def build_kubernetes() -> None:
    """Compile the servers, unless an earlier run did: about five minutes on two cores."""
    if kubernetes().is_dir():
        return
    version = kubernetes_version()
    major, minor, _ = version.lstrip("v").split(".")
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    linker = " ".join(["-s -w", *(f"-X {_VARIABLES}.{name}={value}" for name, value in stamp.items())])
    with _scratch() as scratch:
        target = Path(scratch) / "kubernetes"
        target.mkdir()
        _go("kubernetes-binary", _KUBERNETES, "build", *_REPRODUCIBLE, "-ldflags", linker, "-o", f"{target}/", "./...")
        for server in SERVERS:
            (target / server).symlink_to("kube")
        _publish(target, kubernetes())


def fetch_gateway_crds() -> None:
    """Put the Gateway API's CRDs into the cache folder, unless an earlier run did."""
    if gateway_crds().is_dir():
        return
    answer = json.loads(_go("gateway-api", _KUBERNETES, "mod", "download", "-json", GATEWAY_API))
    with _scratch() as scratch:
        target = Path(scratch) / "crds"
        target.mkdir()
        for source in (Path(answer["Dir"]) / "config/crd/standard").glob("*.yaml"):
            shutil.copyfile(source, target / source.name)  # the module cache is read-only, a copy is not
        _publish(target, gateway_crds())


def build_compose() -> None:
    """Compile Docker Compose, unless an earlier run did: about two minutes. The tests need it, the stack does not."""
    if compose().is_dir():
        return
    with _scratch() as scratch:
        target = Path(scratch) / "compose"
        program, source = f"{target}/{COMPOSE}", f"{_COMPOSE_MODULE}/cmd"
        _go("compose", _COMPOSE, "build", *_REPRODUCIBLE, "-ldflags", "-s -w", "-o", program, source)
        _publish(target, compose())


def _required(module: Path, path: str) -> str:
    found = re.search(rf"{re.escape(path)} (v\S+)", (module / "go.mod").read_text())
    if not found:
        raise StackError(f"{module / 'go.mod'} does not require {path}.")
    return found.group(1)


def _digest(module: Path) -> str:
    digest = hashlib.sha256()
    for source in sorted(path for path in module.rglob("*") if path.is_file()):
        digest.update(f"{source.relative_to(module)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _scratch() -> tempfile.TemporaryDirectory[str]:
    CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=CACHE, prefix=".making-")


def _publish(made: Path, final: Path) -> None:
    """Rename into place, so that the cache never holds half a result if two processes make the same."""
    try:
        made.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _go(part: str, module: Path, *arguments: str) -> str:
    LOG.mkdir(parents=True, exist_ok=True)
    log = LOG / f"{part}.log"
    with log.open("ab") as output:
        done = subprocess.run(
            ["go", *arguments],
            cwd=module,
            env=environment({"CGO_ENABLED": "0", MARKER: str(STATE)}),
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            check=False,
        )
    if done.returncode:
        raise StackError(f"`go {arguments[0]}` failed: see {log}.")
    return done.stdout
