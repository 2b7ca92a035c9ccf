"""The sample service has the history and the faults that the demo and the end-to-end tests build on."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from tests.stack.load import payments
from tests.stack.sample import base_image, manifests
from tests.stack.sample.repository import Sample, make_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


FAULTS = {"slow": "screening", "leak": "receipts", "burn": "journal", "crash": "session"}


def git(sample: Sample, *arguments: str) -> list[str]:
    command = ["git", "-C", str(sample.path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_repository(tmp_path_factory.mktemp("sample") / "repository")


class TestRepository:
    def test_repository_has_the_same_commits_on_every_machine(
        self, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_AUTHOR_NAME", "another author")
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a hook
        other = make_repository(tmp_path / "new" / "repository")
        assert replace(other, path=sample.path) == sample
        commits = [commit for name, commit in asdict(sample).items() if name != "path"]
        assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)

    def test_repository_made_again_is_restored(self, sample: Sample) -> None:
        git(sample, "checkout", "--quiet", "-B", "main", "experiment")
        (sample.path / "pool.go").write_text("changed")
        assert make_repository(sample.path) == sample
        assert git(sample, "rev-parse", "main") == [sample.late]
        assert git(sample, "status", "--porcelain") == []

    def test_repository_has_the_fixes_on_main_and_the_experiment_on_a_branch(self, sample: Sample) -> None:
        assert git(sample, "rev-list", "--reverse", "main") == [sample.running, sample.good, sample.bad, sample.late]
        assert git(sample, "branch", "--contains", sample.experiment, "--format=%(refname:short)") == ["experiment"]

    @pytest.mark.parametrize("name", FAULTS)
    def test_each_other_fault_has_its_own_branch(self, sample: Sample, name: str) -> None:
        commit = getattr(sample, name)
        assert git(sample, "branch", "--contains", commit, "--format=%(refname:short)") == [FAULTS[name]]
        assert git(sample, "diff", "--name-only", sample.good, commit) == ["payments.go"]

    def test_fixes_differ_in_code_only(self, sample: Sample) -> None:
        assert git(sample, "diff", "--name-only", sample.running, sample.good) == ["pool.go"]
        assert git(sample, "diff", "--name-only", sample.good, sample.bad) == ["amount.go"]
        assert git(sample, "diff", "--name-only", sample.good, sample.late) == ["amount.go"]


@pytest.fixture(scope="module")
def programs(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each commit's program, vetted and built from exactly that commit."""
    folder = tmp_path_factory.mktemp("programs")
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    built = {}
    for name in ("running", "good", "bad", "late", *FAULTS):
        source, program = folder / f"{name}-source", folder / name
        source.mkdir()
        git(sample, "archive", f"--output={source}.tar", getattr(sample, name))
        shutil.unpack_archive(f"{source}.tar", source, filter="data")
        for command in (["go", "vet", "-trimpath", "."], ["go", "build", "-trimpath", "-o", str(program), "."]):
            subprocess.run(command, cwd=source, env=os.environ | settings, check=True)
        built[name] = program
    return built


@contextmanager
def running(program: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the program and yield it with its address."""
    settings |= {"LISTEN": "127.0.0.1:0", "VERSION": program.name}
    with subprocess.Popen([program], env=settings, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            said = re.search(r"serving address=(\S+)", process.stderr.readline())
            assert said
            yield process, said[1]
        finally:
            process.terminate()


class Paid(NamedTuple):
    """Status and latency in seconds of each of ``payments``."""

    statuses: list[int]
    latencies: list[float]


def pay_at_once(program: Path, count: int) -> Paid:
    """Pay, 20 at a time."""

    def timed(body: bytes) -> tuple[int, float]:
        began = time.monotonic()
        return pay(address, body), time.monotonic() - began

    with running(program) as (_, address), ThreadPoolExecutor(20) as pool:
        statuses, latencies = zip(*pool.map(timed, islice(payments(), count)), strict=True)
    return Paid(list(statuses), list(latencies))


def pay(address: str, body: bytes) -> int:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", "/payments", body)
    status = connection.getresponse().status
    connection.close()
    return status


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory that the process has."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def worked(process: subprocess.Popen[str]) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TestService:
    def test_good_fix_is_faster_than_the_running_version_at_the_same_load(self, programs: dict[str, Path]) -> None:
        slow, fast = (pay_at_once(programs[name], 100) for name in ("running", "good"))
        assert (slow.statuses, fast.statuses) == ([200] * 100, [200] * 100)
        assert median(fast.latencies) < median(slow.latencies)

    def test_bad_fix_fails_one_payment_in_twenty_by_the_amount_alone(self, programs: dict[str, Path]) -> None:
        statuses = pay_at_once(programs["bad"], 200).statuses
        assert statuses.count(500) == 10
        amounts = [json.loads(body)["amount"] for body in islice(payments(), 200)]
        assert statuses == [500 if amount % 100 == 5 else 200 for amount in amounts]

    def test_late_fix_is_good_until_the_first_payment_in_yen(self, programs: dict[str, Path]) -> None:
        bodies = list(islice(payments(), 40))
        with running(programs["late"]) as (_, address):
            assert [pay(address, body) for body in bodies] == [200] * 40
            assert pay(address, b'{"amount":1205,"currency":"JPY"}') == 200
            assert [pay(address, body) for body in bodies].count(500) == 2

    def test_slow_fix_delays_large_payments_a_fifth_of_all(self, programs: dict[str, Path]) -> None:
        paid = pay_at_once(programs["slow"], 200)
        assert paid.statuses == [200] * 200
        large = [json.loads(body)["amount"] > 160_00 for body in islice(payments(), 200)]
        assert 0.15 < sum(large) / 200 < 0.25
        assert all(seconds >= 0.3 for seconds, waits in zip(paid.latencies, large, strict=True) if waits)
        with running(programs["slow"]) as (_, address):
            began = time.monotonic()
            assert pay(address, b'{"amount":16001}') == 200
            assert time.monotonic() - began >= 0.32

    def test_leak_keeps_48_kib_of_each_payment(self, programs: dict[str, Path]) -> None:
        with running(programs["leak"]) as (process, address), ThreadPoolExecutor(20) as pool:
            assert pay(address, b'{"amount":1205}') == 200
            before = resident(process)
            assert set(pool.map(lambda body: pay(address, body), islice(payments(), 400))) == {200}
            assert resident(process) - before >= 400 * 48 * 1024

    def test_burn_uses_cpu_without_payments(self, programs: dict[str, Path]) -> None:
        with running(programs["burn"]) as (process, address):
            until(lambda: worked(process) > 0.5)
            assert pay(address, b'{"amount":1205}') == 200
        with running(programs["good"]) as (process, address):
            assert pay(address, b'{"amount":1205}') == 200
            assert worked(process) < 0.2

    def test_crash_exits_when_its_first_session_ends(self, programs: dict[str, Path]) -> None:
        with running(programs["crash"], SESSION="100ms") as (process, address):
            assert pay(address, b'{"amount":1205}') == 200
            assert process.wait(timeout=60) == 2
            assert process.stderr
            assert "assignment to entry in nil map" in process.stderr.read()

    @pytest.mark.parametrize("name", ["running", "good", "bad", "late", *FAULTS])
    def test_every_version_answers_500_to_an_amount_of_ten_millions(self, programs: dict[str, Path], name: str) -> None:
        with running(programs[name]) as (_, address):
            assert pay(address, b'{"amount":999999999}') == 200
            assert pay(address, b'{"amount":1000000000}') == 500

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'{"amount":0}', b'{"amount":-5}', b'{"amount":100,"currency":"XXX"}', b'{"amount":1e30}']
    )
    def test_payment_of_no_known_form_is_refused(self, programs: dict[str, Path], body: bytes) -> None:
        with running(programs["good"]) as (_, address):
            assert pay(address, body) == 400

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_health_checks_answer_200_with_the_version(self, programs: dict[str, Path], path: str) -> None:
        with running(programs["good"]) as (_, address):
            connection = http.client.HTTPConnection(address, timeout=10)
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.headers["X-Version"]) == (200, "good")
            connection.close()

    def test_requests_in_progress_are_answered_after_sigterm(self, programs: dict[str, Path]) -> None:
        """In progress: its handler has begun to read. Go's server drops a request that it reads after the signal."""
        body = next(payments())
        head = f"POST /payments HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        with running(programs["running"]) as (process, address), ExitStack() as stack:
            host, _, port = address.rpartition(":")
            sockets = [stack.enter_context(socket.create_connection((host, port), timeout=10)) for _ in range(10)]
            for connection in sockets:
                connection.sendall(head.encode())
            for connection in sockets:
                assert b" 100 Continue" in connection.recv(1000)
                connection.sendall(body)
            process.terminate()
            assert [connection.recv(1000).split()[1] for connection in sockets] == [b"200"] * 10
            assert process.wait(timeout=10) == 0


class TestManifests:
    def test_manifests_have_image_version_gateway_and_labels_of_the_cluster(self) -> None:
        image = f"registry.test/payments@sha256:{'0' * 64}"
        text = manifests.payments(image, "v1", gateway="traffic/public", label={"mine/yes": "1"})
        kinds = {item["kind"]: item for item in yaml.safe_load_all(text)}
        assert list(kinds) == ["Namespace", "Deployment", "Service", "HTTPRoute"]
        (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image
        assert {"name": "VERSION", "value": "v1"} in container["env"]
        assert kinds["HTTPRoute"]["spec"]["parentRefs"] == [{"name": "public", "namespace": "traffic"}]
        assert kinds["Namespace"]["metadata"]["labels"]["mine/yes"] == "1"

    def test_manifests_use_the_given_service_name(self) -> None:
        image = f"registry.test/x@sha256:{'0' * 64}"
        text = manifests.payments(image, "v1", gateway="traffic/public", label={"mine/yes": "1"}, service="kiosk")
        namespace, *objects = yaml.safe_load_all(text)
        assert namespace["metadata"]["name"] == "kiosk"
        assert {(item["metadata"]["name"], item["metadata"]["namespace"]) for item in objects} == {("kiosk", "kiosk")}
        assert objects[-1]["spec"]["hostnames"] == ["kiosk.test"]
        assert "payments" not in text


class TestBaseImage:
    @pytest.fixture
    def host(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A host with busybox and a `go` that prints the version which the test writes."""
        go, busybox, version = tmp_path / "go", tmp_path / "busybox", tmp_path / "version"
        busybox.touch()
        go.write_text(f"#!/bin/sh\ncat {version}\n")
        go.chmod(0o755)
        monkeypatch.setattr(base_image, "BUSYBOX", str(busybox))
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        return tmp_path

    def test_base_image_is_made_once_per_go_version(self, host: Path) -> None:
        (host / "version").write_text(f"go1.26.8\n{host}\n")
        made = host / f"base-go1.26.8-{base_image.LAYOUT}.tar"
        made.write_text("made before")
        assert base_image.make_base(host) == made
        assert made.read_text() == "made before"

    @pytest.mark.parametrize("version", ["go1.25.3", "go1.260", "go1.3"])
    def test_base_image_with_another_go_version_is_refused(self, host: Path, version: str) -> None:
        (host / "version").write_text(f"{version}\n{host}\n")
        with pytest.raises(RuntimeError, match=f"Go is {version}"):
            base_image.make_base(host)

    def test_base_image_without_busybox_is_refused(self, host: Path) -> None:
        (host / "busybox").unlink()
        with pytest.raises(RuntimeError, match="busybox-static"):
            base_image.make_base(host)
