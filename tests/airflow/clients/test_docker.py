"""What Docker and the registry answer is input: bounded in time, told apart from a proxy's answer, and validated."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.build_context import BuildContext
from airflow_deploy.clients.deadline import at_most
from airflow_deploy.clients.docker import Images
from airflow_deploy.clients.docker_answers import LOGGED_LINES
from airflow_deploy.domain.config.git_source import BuildSpec
from airflow_deploy.domain.errors import DeployError, PermanentError, TemporaryError
from tests.support.fake_docker import LIST, Answer, FakeDocker, Lines, Pushed, fake_docker, sha256

TAG = "registry.example.com:5000/shop/payments:0123-1"
DIGEST = sha256("it")


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with fake_docker() as made:
        monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__DOCKER_URL", made.url)
        monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", json.dumps({"conn_type": "docker"}))
        yield made


@pytest.fixture
def images(docker: FakeDocker) -> Iterator[Images]:
    made = Images("docker_default")
    yield made
    made._docker.close()


@pytest.fixture
def context(tmp_path: Path) -> BuildContext:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return BuildContext(tmp_path, tmp_path / "Dockerfile")


def build(images: Images, context: BuildContext, **limits: Any) -> str:
    # As if it had been validated: a test does not wait for the least time that a spec may set.
    return images.build(context, TAG, {}, {}, BuildSpec().model_copy(update=limits))


class TestAbsence:
    @pytest.mark.parametrize("status", [403, 404, 500])
    @pytest.mark.parametrize(
        "said",
        [
            "manifest unknown: manifest unknown",
            "errors:\nmanifest unknown: manifest unknown\n",
            'manifest unknown: manifest tagged by "0123-1" is not found',
            "name unknown: repository name not known to registry",
            "unknown: artifact shop/payments:0123-1 not found",
            "unknown: repository shop/payments not found",
        ],
    )
    def test_a_registrys_own_code_says_that_there_is_nothing(
        self, docker: FakeDocker, images: Images, status: int, said: str
    ) -> None:
        docker.answers["GET /distribution/"] = Answer(status, json.dumps({"message": said}))
        assert images.digest(TAG) is None

    @pytest.mark.parametrize(
        "body",
        [
            json.dumps({"message": "page not found"}),
            json.dumps({"message": "not found"}),
            json.dumps(
                {"message": "error parsing HTTP 404 response body: invalid character '<': \"<h1>manifest unknown\""}
            ),
            json.dumps({"message": "no error details found in HTTP response body: name unknown"}),
            json.dumps({"message": "No such image: manifest unknown"}),
            json.dumps({"message": None}),
            json.dumps({"error": "manifest unknown"}),
            json.dumps(["manifest unknown"]),
            "<html>404 manifest unknown</html>",
            "",
        ],
    )
    def test_another_404_says_nothing(self, docker: FakeDocker, images: Images, body: str) -> None:
        docker.answers["GET /distribution/"] = Answer(404, body)
        with pytest.raises(TemporaryError, match=rf"^asking the registry for {TAG}: ") as caught:
            images.digest(TAG)
        assert str(caught.value).isprintable()

    def test_the_sentence_names_the_remedy(self, docker: FakeDocker, images: Images) -> None:
        docker.answers["GET /distribution/"] = Answer(404, "nginx")
        with pytest.raises(
            TemporaryError, match=r"404 is not a registry's \(nginx\); check the registry's address and"
        ):
            images.digest(TAG)

    @pytest.mark.parametrize(
        ("status", "kind"), [(400, PermanentError), (401, PermanentError), (403, PermanentError), (500, TemporaryError)]
    )
    def test_another_error_is_one(
        self, docker: FakeDocker, images: Images, status: int, kind: type[DeployError]
    ) -> None:
        docker.answers["GET /distribution/"] = Answer(status, json.dumps({"message": "denied: not found"}))
        with pytest.raises(kind):
            images.digest(TAG)

    @pytest.mark.parametrize("digest", ["", "sha256:12", None, 7, f"{DIGEST}\n", "../../x", "sha512:" + "0" * 64])
    def test_a_digest_that_is_none_is_refused(self, docker: FakeDocker, images: Images, digest: Any) -> None:
        docker.registry[TAG] = Pushed(digest, DIGEST)
        with pytest.raises(TemporaryError, match="in place of a SHA-256"):
            images.digest(TAG)

    def test_a_list_is_not_a_single_image(self, docker: FakeDocker, images: Images) -> None:
        docker.registry[TAG] = Pushed(DIGEST, DIGEST, LIST)
        assert images.find(TAG) == (DIGEST, False)


class TestBounds:
    def test_memory_and_cpu_reach_the_daemon(self, docker: FakeDocker, images: Images, context: BuildContext) -> None:
        assert build(images, context, memory="512Mi", cpu=1.5) == docker.images[TAG]
        (done,) = docker.builds
        memory = str(512 * 2**20)
        sent = {key: done["query"][key] for key in ("memory", "memswap", "cpuperiod", "cpuquota")}
        assert sent == {"memory": memory, "memswap": memory, "cpuperiod": "100000", "cpuquota": "150000"}

    def test_a_step_that_was_killed_hints_at_the_memory(
        self, docker: FakeDocker, images: Images, context: BuildContext
    ) -> None:
        docker.build_lines = lambda: iter([{"error": "The command '/bin/sh -c x' returned a non-zero code: 137"}])
        with pytest.raises(PermanentError, match=r"code: 137; if the memory was short, raise build\.memory \(2Gi\)$"):
            build(images, context)

    @pytest.mark.parametrize("pause", [0.01, 30], ids=["a build that prints for ever", "a silent one"])
    def test_a_build_without_end_is_left_in_time(
        self, docker: FakeDocker, images: Images, context: BuildContext, pause: float
    ) -> None:
        def endless() -> Lines:
            while True:
                time.sleep(pause)
                yield {"stream": "still here\n"}

        docker.build_lines = endless
        with pytest.raises(
            PermanentError, match=rf"^building {TAG} took longer than 1 s; shorten it, or raise build\.timeout$"
        ):
            build(images, context, timeout=1)
        if pause < 1:
            assert docker.left.wait(5), "the daemon would go on building"

    def test_a_push_without_end_is_left_in_time(self, docker: FakeDocker, images: Images) -> None:
        def endless() -> Lines:
            while True:
                time.sleep(0.01)
                yield {"status": "Waiting"}

        docker.push_lines = endless
        with pytest.raises(TemporaryError, match=rf"^pushing {TAG} took longer than 1 s; check .* build\.timeout$"):
            images.push(TAG, 1)
        assert docker.left.wait(5)

    def test_a_pattern_that_matches_for_ever_is_left_in_time(self, images: Images, context: BuildContext) -> None:
        """Python's regular expressions take exponential time, and let no other thread run."""
        (context.folder / ("a" * 200)).write_text("x")
        (context.folder / ".dockerignore").write_text("*a" * 40 + "b\n")
        with pytest.raises(PermanentError, match="took longer than 1 s"):
            build(images, context, timeout=1)

    def test_an_invalid_pattern_is_refused(self, images: Images, context: BuildContext) -> None:
        (context.folder / ".dockerignore").write_text("[z-a]\n")
        with pytest.raises(PermanentError, match=r"\.dockerignore has an invalid pattern \(bad character range"):
            build(images, context)

    def test_a_build_that_prints_for_ever_does_not_fill_the_log(
        self, docker: FakeDocker, images: Images, context: BuildContext, caplog: pytest.LogCaptureFixture
    ) -> None:
        docker.build_lines = lambda: iter([{"stream": "x\n"}] * (LOGGED_LINES + 50))
        with caplog.at_level(logging.INFO, "airflow_deploy"):
            build(images, context)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("airflow_deploy")]
        assert (len(lines), lines[-1]) == (LOGGED_LINES + 1, f"building {TAG}: no more lines are logged")

    def test_an_outer_alarm_goes_on(self) -> None:
        """Airflow's own, of a task's execution_timeout."""
        end, rung = os.pipe()
        before = signal.signal(signal.SIGALRM, lambda *_: os.write(rung, b"."))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with at_most(60, TemporaryError("late")):
                assert signal.getitimer(signal.ITIMER_REAL)[0] > 1  # ours
            assert select.select([end], [], [], 60)[0] == [end]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            os.close(end)
            os.close(rung)


class TestRemoval:
    def test_the_tag_alone_is_removed(self, docker: FakeDocker, images: Images) -> None:
        docker.images |= {TAG: DIGEST, "other:1": DIGEST}
        images.remove(TAG)
        assert docker.images == {"other:1": DIGEST}

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(409, '{"message": "conflict"}'),
            Answer(500, "x"),
            Answer(404, "[]"),
            Answer(404, '{"message": "gone"}'),
        ],
    )
    def test_a_failure_is_logged_and_no_more(
        self, docker: FakeDocker, images: Images, answer: Answer, caplog: pytest.LogCaptureFixture
    ) -> None:
        docker.answers["DELETE /images/"] = answer
        images.remove(TAG)
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [line.startswith(f"{TAG} stays on the Docker daemon; remove it: ") for line in warned] == (
            [] if "gone" in answer.body else [True]
        )
