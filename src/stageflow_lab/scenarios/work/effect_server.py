"""An HTTP server that causes effects and counts them: with keys, without, and to be asked.

`python -m stageflow_lab.scenarios.work.effect_server` prints its port, and serves until it is
killed. POST /plain, /reconciled or /keyed with an `Idempotency-Key` and the order as the body; only
/keyed heeds the key. GET /answer/KEY gives what was answered to it, GET /counts the effects by
order.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import Any

from .local_server import LocalServer


class Effects:
    """What was done; threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held while an effect is decided and counted: one at a time."""
        self._counts: Counter[str] = Counter()
        self._answers: dict[str, dict[str, Any]] = {}

    def apply(self, order: str, key: str, *, heeds_keys: bool) -> dict[str, Any]:
        """The effect, or what was answered before under its key."""
        with self._lock:
            if heeds_keys and key in self._answers:
                return self._answers[key]
            self._counts[order] += 1
            number = sum(self._counts.values())
            answer = {
                "status": "ok",
                "artifacts": [f"document-{number}"],
                "version": 1,
                "number": number,
            }
            self._answers[key] = answer
            return answer

    def answer(self, key: str) -> dict[str, Any] | None:
        """What was answered to `key`."""
        with self._lock:
            return self._answers.get(key)

    def counts(self) -> dict[str, int]:
        """Effects by order."""
        with self._lock:
            return dict(self._counts)


class Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        order = self.rfile.read(length).decode()
        heeds_keys = self.path == "/keyed"
        key = self.headers["Idempotency-Key"]
        self._say(self.server.effects.apply(order, key, heeds_keys=heeds_keys))

    def do_GET(self) -> None:
        if self.path == "/counts":
            self._say(self.server.effects.counts())
        else:
            self._say(self.server.effects.answer(self.path.rpartition("/")[2]))

    def _say(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are counted, not told."""


class Server(LocalServer):
    """With the effects that it has caused."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.effects = Effects()


if __name__ == "__main__":
    sys.exit(Server().serve())
