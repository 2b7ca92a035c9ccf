"""
Makes the image that the sample's Dockerfile builds on, as a closed network has nowhere to pull it from.

It holds the host's own Go toolchain, Debian's static busybox for the shell, and a build cache in which the standard
library is compiled already. It is an uncompressed root file system for `docker import`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from docker.errors import ImageNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient

REPOSITORY, TAG = "golang", "1.26-bookworm"
GO = "go1.26"  # what the tag promises
LAYOUT = 1  # raise it when what goes into the archive changes: archives made before are not used any more
CHANGES = (
    "ENV PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV GOPATH=/go",
    "ENV GOROOT=/usr/local/go",
    "ENV GOTOOLCHAIN=local",
    "ENV CGO_ENABLED=0",  # there is no C compiler
    "WORKDIR /go",
    'CMD ["sh"]',
)
TOOLS = ("asm", "compile", "link")
BUSYBOX = "/bin/busybox"
ACCOUNTS = {"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}

MADE = 1_767_225_600  # 2026-01-01 UTC: the date of every file, so that archives differ in their content only
# Go stamps a cached result when it uses one that is older than an hour, which under overlayfs copies the whole file,
# and drops those of past days. Results from the future (2100-01-01 UTC) it leaves alone.
NEVER_STALE = 4_102_444_800


def import_base(client: DockerClient, cache: Path) -> None:
    """
    Give dockerd the base image under the name that Dockerfiles ask for; nothing is done if it is there.

    :param cache: a folder that outlives the stack, where the archive is kept (about 200 MB).
    :raises RuntimeError: Go or busybox is missing, or Go is of another version.
    """
    try:
        client.images.get(f"{REPOSITORY}:{TAG}")
    except ImageNotFound:
        archive = make_base(cache)
        client.api.import_image_from_file(str(archive), repository=REPOSITORY, tag=TAG, changes=list(CHANGES))


def make_base(cache: Path) -> Path:
    """
    Make the archive in the folder `cache`, unless it is there; return its path.

    :raises RuntimeError: as `import_base`.
    """
    if not Path(BUSYBOX).is_file():
        raise RuntimeError(f"{BUSYBOX} is missing: apt-get install busybox-static")
    version, root = _go_env("GOVERSION", "GOROOT")
    if not f"{version}.".startswith(f"{GO}."):
        raise RuntimeError(f"Go is {version}, but {REPOSITORY}:{TAG} is {GO}: install Go 1.26")
    archive = cache / f"base-{version}-{LAYOUT}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            results = Path(folder) / "results"
            _warm(results)
            unfinished = Path(folder) / archive.name
            _write(unfinished, Path(root), results)
            unfinished.rename(archive)
    return archive


def _go_env(*names: str) -> list[str]:
    if shutil.which("go") is None:
        raise RuntimeError("Go is missing: install Go 1.26 and put it on the PATH")
    done = subprocess.run(["go", "env", *names], env=_environment(), capture_output=True, text=True, check=True)
    return done.stdout.split()


def _environment(**more: str) -> dict[str, str]:
    """Go's defaults without the user's settings: a cached result is found only by a build with the same settings."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GOENV": "off", "GOTOOLCHAIN": "local"} | more


def _warm(results: Path) -> None:
    """Fill the build cache `results` with what the sample needs, by building it as its Dockerfile does."""
    source = Path(__file__).with_name("base")
    environment = _environment(GOCACHE=str(results), GOPROXY="off", GOFLAGS="-buildvcs=false", CGO_ENABLED="0")
    command = ["go", "build", "-trimpath", "-o", os.devnull, "."]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {source}: {done.stderr.strip()}")


def _write(archive: Path, root: Path, results: Path) -> None:
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder, mode in (("go", 0o755), ("root", 0o700), ("src", 0o755), ("tmp", 0o1777), ("usr/bin", 0o755)):
            _add_entry(tar, folder, tarfile.DIRTYPE, mode)
        for name, content in ACCOUNTS.items():
            _add_content(tar, name, content)
        _add_file(tar, "bin/busybox", Path(BUSYBOX))
        for applet in _applets():
            _add_entry(tar, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link=BUSYBOX)
        _add_entry(tar, "usr/bin/env", tarfile.SYMTYPE, 0o777, link=BUSYBOX)
        for file in _toolchain(root):
            _add_file(tar, f"usr/local/go/{file.as_posix()}", root / file)
        for file in _files(results):
            _add_file(tar, f"root/.cache/go-build/{file.as_posix()}", results / file, modified=NEVER_STALE)


def _applets() -> list[str]:
    done = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return sorted(set(done.stdout.split()) - {"busybox"})


def _toolchain(root: Path) -> Iterator[PurePosixPath]:
    """The files that `go build` reads, relative to GOROOT: no tests, and not the sources of Go's own commands."""
    yield from (PurePosixPath(name) for name in ("VERSION", "bin/go", "go.env"))
    tools = next((root / "pkg/tool").iterdir()).name
    yield from (PurePosixPath("pkg/tool", tools, tool) for tool in TOOLS)
    yield from (PurePosixPath("pkg/include") / file for file in _files(root / "pkg/include"))
    yield PurePosixPath("lib/time/zoneinfo.zip")
    for file in _files(root / "src"):
        if file.parts[0] != "cmd" and "testdata" not in file.parts and not file.name.endswith("_test.go"):
            yield PurePosixPath("src") / file


def _files(folder: Path) -> list[PurePosixPath]:
    """All files below `folder`, relative to it, in a fixed order; links (distributions use them) are followed."""
    found = (Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(PurePosixPath(file.relative_to(folder)) for file in found)


def _add_file(tar: tarfile.TarFile, name: str, file: Path, *, modified: int = MADE) -> None:
    _add_content(tar, name, file.read_bytes(), executable=os.access(file, os.X_OK), modified=modified)


def _add_content(
    tar: tarfile.TarFile, name: str, content: bytes, *, executable: bool = False, modified: int = MADE
) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.mtime = 0o755 if executable else 0o644, len(content), modified
    tar.addfile(entry, io.BytesIO(content))


def _add_entry(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, *, link: str = "") -> None:
    """Add a folder or a link."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.mtime = kind, mode, link, MADE
    tar.addfile(entry)
