"""What the stack needs from Debian: only missing packages are installed, and no service of theirs is started."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack.errors import StackError
from tests.stack.layout import LOG, embedded

FOR_AIRFLOW = ("git", "postgresql")
FOR_THE_CLUSTER = (
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "docker-registry",
    "docker.io",
    "iproute2",
    "iptables",
    "prometheus",
    "runc",
)

_POLICY = Path("/usr/sbin/policy-rc.d")
_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/airflow-deploy.conf")


def missing() -> list[str]:
    """Packages that the stack needs and this machine does not have."""
    if not shutil.which("dpkg-query"):
        raise StackError("The stack is made of Debian's packages, and this system has no dpkg: use Debian 12 or newer.")
    needed = (*FOR_AIRFLOW, *(FOR_THE_CLUSTER if embedded() else ()))
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *needed]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}
    return [package for package in needed if package not in installed]


def install() -> None:
    """Install what is missing; does nothing, fast, when nothing is."""
    wanted = missing()
    if not wanted:
        return
    if os.geteuid() != 0:
        raise StackError(f"Packages are missing: ask root for `apt-get install {' '.join(wanted)}`.")
    log = LOG / "packages.log"
    with log.open("ab") as output, _services_stay_off():
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
        # Try the lists at hand first: refreshing them takes half of the time, and they may be fresh.
        for arguments in (command, ["apt-get", "update"], command):
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, check=False
            )
            if arguments is command and done.returncode == 0:
                return
    raise StackError(f"apt-get could not install {' '.join(wanted)}: see {log}.")


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Debian starts what it installs, and makes a PostgreSQL cluster: forbid both, for as long as we install."""
    written: list[Path] = []
    made = [folder for folder in (_NO_CLUSTER.parent, _NO_CLUSTER.parent.parent) if not folder.exists()]
    try:
        if not _POLICY.exists():
            written.append(_POLICY)
            _POLICY.write_text("#!/bin/sh\nexit 101\n")
            _POLICY.chmod(0o755)
        written.append(_NO_CLUSTER)
        _NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
        _NO_CLUSTER.write_text("create_main_cluster = false\n")
        yield
    finally:
        for path in written:
            path.unlink(missing_ok=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
