"""No tree of files and links makes the build read outside the checkout, or wait for what never ends."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_deploy.clients.build_context import find_context
from airflow_deploy.clients.docker import Images
from airflow_deploy.domain.config.git_source import BuildSpec, Source
from airflow_deploy.domain.errors import PermanentError, RefusedError
from tests.support.fake_docker import FakeDocker, fake_docker

SECRET = "s3cr3t"
TAG = "registry.example.com/payments:1-1"

NAMES = ["Dockerfile", ".dockerignore", "app", "docs", "x"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(
    PATHS,
    st.builds(lambda up, path: "../" * up + path, st.integers(1, 3), PATHS),
    st.sampled_from(
        [
            "OUTSIDE",
            "OUTSIDE/secret",
            "OUTSIDE/Dockerfile",
            "UP/outside/secret",
            "UP/outside",
            ".",
            "..",
            "/",
            "CHECKOUT",
        ]
    ),
    st.sampled_from(["/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/root", "/proc/self/fd/0"]),
)
TREES = st.dictionaries(
    PATHS,
    st.one_of(
        st.tuples(st.just("file"), st.sampled_from(["FROM scratch\n", "*\n!app\n", f"# {'x' * 99}\n", ""])),
        st.tuples(st.just("link"), TARGETS),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def docker() -> Iterator[FakeDocker]:
    with fake_docker() as made:
        yield made


@pytest.fixture
def images(docker: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__DOCKER_URL", docker.url)
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", json.dumps({"conn_type": "docker"}))
    made = Images("docker_default")
    yield made
    made._docker.close()


def plant(root: Path, tree: dict[str, tuple[str, str]]) -> Path:
    """Write a checkout as Git would, which writes nothing through a link, beside what it must not reach."""
    outside, checkout = root / "outside", root / "checkout"
    for folder in (outside, checkout):
        folder.mkdir()
    for name in ("secret", "Dockerfile", ".dockerignore"):
        (outside / name).write_text(f"{SECRET}\n")
    for name, (kind, text) in tree.items():
        path = checkout / name
        parents = [parent for parent in path.parents if parent.is_relative_to(checkout)]
        if path.is_symlink() or path.exists() or any(one.is_symlink() or one.is_file() for one in parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text(text)
        else:
            up = "../" * len(parents) + ".."
            target = text.replace("OUTSIDE", str(outside)).replace("UP", up).replace("CHECKOUT", str(checkout))
            path.symlink_to(target)
    return checkout


@settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, context=st.one_of(st.just("."), PATHS), dockerfile=st.one_of(st.just("Dockerfile"), PATHS))
def test_no_tree_makes_the_build_read_outside_the_checkout(
    docker: FakeDocker, images: Images, tree: dict[str, tuple[str, str]], context: str, dockerfile: str
) -> None:
    source = Source.model_construct(
        **{**Source(repository="file:///x").model_dump(), "context": context, "dockerfile": dockerfile}
    )
    docker.builds.clear()
    with tempfile.TemporaryDirectory() as folder:
        checkout = plant(Path(folder).resolve(), tree)
        try:
            found = find_context(checkout, source, "0" * 40)
            images.build(found, TAG, {}, {}, BuildSpec())
        except RefusedError as error:
            assert str(error).startswith("source: ")  # noqa: PT017 - refused or built within
            assert SECRET not in str(error)  # noqa: PT017
            return
        except PermanentError as error:
            pytest.fail(f"only Docker itself refused it: {error}")
        (built,) = docker.builds
        own = {path.read_bytes() for path in checkout.rglob("*") if path.is_file() and not path.is_symlink()}
        for name, text in built["texts"].items():
            assert SECRET.encode() not in text
            # docker-py adds the name of a Dockerfile from elsewhere to .dockerignore.
            assert text in own or name == ".dockerignore"
        assert os.environ["PATH"].encode() not in b"".join(built["texts"].values())
