"""A server on this host, in a process of its own: it prints its port, and serves until killed."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

HOST: Final = "127.0.0.1"


class LocalServer(ThreadingHTTPServer):
    """Serves each connection in a thread."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__((HOST, 0), handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients are killed while they wait."""

    def serve(self) -> int:
        """Until killed."""
        sys.stdout.write(f"{self.server_address[1]}\n")
        sys.stdout.flush()
        self.serve_forever()
        return 0
