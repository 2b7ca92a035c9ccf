"""Makes the image that generated Python Dockerfiles build on, as a closed network has nowhere to pull it from.

It holds the Python that runs the tests, the libraries that it loads, and pip: no shell, which exec form does not need.
"""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import ImageNotFound

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = f"{VERSION}-slim-bookworm"
LEFT_OUT = {"__pycache__", "test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages"}


def import_python(client: docker.DockerClient) -> None:
    """Give dockerd the base image under the name that the Dockerfile asks for; nothing is done if it is there."""
    try:
        client.images.get(f"python:{TAG}")
    except ImageNotFound:
        changes = ["ENV PATH=/usr/local/bin:/usr/bin:/bin"]
        client.api.import_image_from_data(make_python(), repository="python", tag=TAG, changes=changes)


def make_python() -> bytes:
    """Return the root file system as a tar archive, about 60 MB."""
    program = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=packed, mode="w") as tar:
        subprocess.run([program, "-m", "venv", folder], check=True)  # for its pip: ours need not have one
        tar.add(program, f"usr/local/bin/python{VERSION}")
        for name in ("python", "python3"):
            link = tarfile.TarInfo(f"usr/local/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, f"python{VERSION}"
            tar.addfile(link)
        for root, at in ((library, ""), (Path(folder, f"lib/python{VERSION}/site-packages/pip"), "pip/")):
            for file in _files(root):
                tar.add(file, f"usr/local/lib/python{VERSION}/{at}{file.relative_to(root)}")
        for loaded in sorted(_loaded([program, *library.glob("lib-dynload/*.so")])):
            tar.add(loaded.resolve(), str(loaded).lstrip("/"))
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(scratch)
    return packed.getvalue()


def _files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        yield from (Path(parent, name) for name in names)


def _loaded(programs: list[Path]) -> set[Path]:
    """Return the shared libraries that these programs load, by the paths where they look for them."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", said, re.MULTILINE)}
