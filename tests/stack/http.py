"""The least HTTP client, for readiness: a body, or None for every kind of failure."""

import http.client
import socket
import urllib.request
from pathlib import Path

# No proxy, even if the environment has one: the stack's addresses are on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, seconds: float = 2) -> bytes | None:
    """The body of a 200 answer; None when there is none (yet)."""
    try:
        with _opener.open(url, timeout=seconds) as answer:
            body: bytes = answer.read()
            return body if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None


def answers_on_socket(path: Path, resource: str) -> bool:
    """Whether an HTTP server on a Unix socket answers 200."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
            connection.sendall(f"GET {resource} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
        except OSError:
            return False
