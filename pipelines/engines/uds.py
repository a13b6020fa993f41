"""Blocking HTTP over a unix socket, for the few calls that are not generation: health, metrics, adapters."""

import http.client
import json
import socket
from typing import Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(path: str, method: str, url: str, body: Any = None, *, timeout: float = 10.0) -> tuple[int, str]:
    """One request on a connection of its own.

    Args:
        path: the socket.
        method, url, body: the request; a body is sent as JSON.
        timeout: seconds that each read and write may take.

    Returns:
        HTTP status and the body as text.

    Raises:
        OSError: no server, or it did not answer in time, or it hung up.
    """
    connection = _UnixConnection(path, timeout)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, url, body=content, headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"the engine's answer broke off: {error!r}") from error
    finally:
        connection.close()


def is_healthy(path: str, *, timeout: float = 10.0) -> bool:
    """Whether a server answers `/health` with 200."""
    try:
        return call(path, "GET", "/health", timeout=timeout)[0] == 200
    except OSError:
        return False
