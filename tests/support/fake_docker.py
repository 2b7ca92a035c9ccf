"""A Docker daemon and its registry behind a real socket: what docker-py sends arrives here as a daemon would get it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

SINGLE = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.oci.image.index.v1+json"


def sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class Pushed(NamedTuple):
    """What the registry has under a tag; ``image_id`` is what a daemon calls it that pulls it."""

    digest: str
    image_id: str
    media_type: str = SINGLE


class Answer(NamedTuple):
    """An answer in place of the daemon's own."""

    status: int
    body: str


Lines = Iterator[dict[str, Any]]


@dataclass
class FakeDocker:
    """The daemon's images and the registry's."""

    url: str
    containerd: bool = False
    """Whether an image's id is its digest."""
    images: dict[str, str] = field(default_factory=dict)
    registry: dict[str, Pushed] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    """Digests that this daemon has pushed."""
    builds: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    """By the method and a part of the path."""
    build_lines: Callable[[], Lines] | None = None
    push_lines: Callable[[], Lines] | None = None
    left: threading.Event = field(default_factory=threading.Event)
    """Whether a client has left while the daemon was still answering."""

    def digest_of(self, image_id: str) -> str:
        return image_id if self.containerd else sha256(f"manifest of {image_id}")

    def build(self, query: dict[str, str], body: bytes) -> Lines:
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            members = archive.getmembers()
            files = {item.name: item for item in members}
            texts = {item.name: _read(archive, item) for item in members if item.isfile()}
        self.builds.append({"query": query, "files": files, "texts": texts})
        yield {"stream": "Step 1/1 : FROM scratch\n"}
        if self.build_lines:
            yield from self.build_lines()
        self.images[query["t"]] = sha256(f"image {len(self.builds)}")

    def push(self, tag: str) -> Lines:
        if self.push_lines:
            yield from self.push_lines()
        image_id = self.images[tag]
        digest = self.digest_of(image_id)
        self.registry[tag] = Pushed(digest, image_id)
        self.own.add(digest)
        yield {"status": "Pushed", "id": "1"}
        yield {"aux": {"Tag": tag.rpartition(":")[2], "Digest": digest, "Size": 1}}

    def pull(self, repository: str, digest: str) -> Lines:
        found = next((item for item in self.registry.values() if item.digest == digest), None)
        if found:
            self.images[f"{repository}@{digest}"] = found.image_id
            yield {"status": "Pull complete", "id": "1"}
        else:
            yield {"error": "manifest unknown: manifest unknown"}


def _read(archive: tarfile.TarFile, item: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(item)
    return file.read() if file else b""


@contextmanager
def fake_docker() -> Iterator[FakeDocker]:
    """Serve a daemon on a socket of its own."""
    folder = tempfile.mkdtemp(prefix="docker-", dir="/tmp")  # a socket's path is short
    docker = FakeDocker(f"unix://{folder}/socket")

    class Handler(_Handler):
        daemon = docker

    with _Server(f"{folder}/socket", Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield docker
        finally:
            server.shutdown()
            shutil.rmtree(folder)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A client may leave whenever it likes."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    daemon: FakeDocker

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        docker, url = self.daemon, urlsplit(self.path)
        path, query = unquote(url.path), dict(reversed(parse_qsl(url.query)))  # the first counts, as in Go
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
        docker.requests.append(f"{method} {path}")
        for part, answer in docker.answers.items():
            if part in f"{method} {path}":
                self._answer(answer.status, answer.body)
                return
        name = path.removeprefix("/images/").removeprefix("/distribution/")
        self._own(method, path, name.removesuffix("/json").removesuffix("/push"), query, body)

    def _own(self, method: str, path: str, name: str, query: dict[str, str], body: bytes) -> None:
        docker = self.daemon
        match (method, path.split("/")[1]):
            case ("GET", "_ping"):
                self._answer(200, "OK")
            case ("GET", "version"):
                self._json(200, {"ApiVersion": "1.41", "Version": "20.10.24"})
            case ("GET", "distribution"):
                self._distribution(name)
            case ("GET", "images"):
                self._named(name, lambda: {"Id": docker.images[name]})
            case ("DELETE", "images"):
                self._named(name, lambda: [{"Untagged": name, "Id": docker.images.pop(name)}])
            case ("POST", "build"):
                self._stream(docker.build(query, body))
            case ("POST", "images") if path == "/images/create":
                self._stream(docker.pull(query["fromImage"], query["tag"]))
            case _:
                self._stream(docker.push(f"{name}:{query['tag']}"))

    def _distribution(self, name: str) -> None:
        if name in self.daemon.registry:
            found = self.daemon.registry[name]
            self._json(200, {"Descriptor": {"digest": found.digest, "mediaType": found.media_type, "size": 1}})
        else:
            self._json(404, {"message": "manifest unknown: manifest unknown"})

    def _named(self, name: str, answer: Callable[[], Any]) -> None:
        if name in self.daemon.images:
            self._json(200, answer())
        else:
            self._json(404, {"message": f"No such image: {name}"})

    def _json(self, status: int, body: Any) -> None:
        self._answer(status, json.dumps(body))

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def _stream(self, lines: Lines) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in lines:
                text = json.dumps(line).encode() + b"\r\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.daemon.left.set()
