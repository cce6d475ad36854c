"""A service of documents with entity tags, which heeds conditions (RFC 9110, section 13).

`python -m stageflow_lab.scenarios.work.undo_server` prints its port, and serves until it is killed.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

from .local_server import LocalServer


class Document(NamedTuple):
    """What is at a path."""

    type: str
    data: bytes
    tag: str


class Documents:
    """All of them; threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held while a condition is looked at and a document written: one at a time."""
        self._documents: dict[str, Document] = {}
        self._writes = 0

    def get(self, path: str) -> Document | None:
        """What is there."""
        with self._lock:
            return self._documents.get(path)

    def set(
        self, path: str, new: tuple[str, bytes] | None, *, match: str | None, is_new: bool
    ) -> str | None:
        """Writes or removes; its tag, "" when it is gone, None when the condition does not hold."""
        with self._lock:
            there = self._documents.get(path)
            if is_new and there is not None:
                return None
            if match is not None and (there is None or there.tag != match):
                return None
            self._writes += 1
            if new is None:
                self._documents.pop(path, None)
                return ""
            tag = f'"{self._writes}"'
            self._documents[path] = Document(*new, tag)
            return tag


class Handler(BaseHTTPRequestHandler):
    """Requests of one connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        document = self.server.documents.get(self.path)
        if document is None:
            self._say(404)
        else:
            self._say(200, document.data, {"Content-Type": document.type, "ETag": document.tag})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self._write((self.headers["Content-Type"], data))

    def do_DELETE(self) -> None:
        if self.server.documents.get(self.path) is None:
            self._say(404)
        else:
            self._write(None)

    def _write(self, new: tuple[str, bytes] | None) -> None:
        tag = self.server.documents.set(
            self.path,
            new,
            match=self.headers["If-Match"],
            is_new=self.headers["If-None-Match"] == "*",
        )
        if tag is None:
            self._say(412)
        else:
            self._say(200, b"", {"ETag": tag} if tag else {})

    def _say(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the facts are told by whoever writes."""


class Server(LocalServer):
    """With its documents."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.documents = Documents()


if __name__ == "__main__":
    sys.exit(Server().serve())
