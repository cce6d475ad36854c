"""What an escape would be seen by: a secret, canaries, listeners, and a process of the host.

Nothing here is the sandbox's: what left it is read from the files, the listeners and the process
table of the host, never from what the sandbox reports.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

from .escape_attempts import Attempt

PAGE: Final = "what everybody may read\n"
VARIABLE: Final = "DESK_TOKEN"


class Ground:
    """One lane's surroundings below `folder`; a context manager. Attempts on it run one by one."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder, self.token = folder, token
        self.vault, self.public, self.drop, self.tmp = (
            folder / name for name in ("vault", "public", "drop", "tmp")
        )
        self.secret = self.vault / "secret.txt"
        self.descriptor = -1
        self._heard = 0
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()

    def __enter__(self) -> Ground:
        self.folder.mkdir(parents=True)
        self.drop.mkdir()
        self.tmp.mkdir()
        self._plant()
        tcp, udp = (
            _bound(socket.SOCK_STREAM, ("127.0.0.1", 0)),
            _bound(socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        )
        self.tcp, self.udp = tcp.getsockname()[1], udp.getsockname()[1]
        self.abstract = f"stageflow-lab-{os.getpid()}-{self.folder.name}"
        hidden = _bound(socket.SOCK_STREAM, f"\0{self.abstract}")
        for each in (tcp, udp, hidden):
            self._listen(each)
        self._doors()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.process = self._started()
        # A program that inherited this would read the secret from it.
        self.descriptor = os.open(self.secret, os.O_RDONLY)
        os.set_inheritable(self.descriptor, True)
        self._before = self.state()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for each in self._sockets:
            each.close()
        self._selector.close()
        os.close(self.descriptor)
        self._end_process()

    def inputs(self, attempt: Attempt, *, tmp: str, caps: dict[str, float]) -> dict[str, Any]:
        """What the attempt is told about its surroundings."""
        return {
            "secret": str(self.secret),
            "vault": str(self.vault),
            "public": str(self.public),
            "drop": str(self.drop),
            "tmp": tmp,
            "door": str(self.public / "door"),
            "box": str(self.public / "box"),
            "tcp": self.tcp,
            "udp": self.udp,
            "abstract": self.abstract,
            "pid": self.process.pid,
            "beat": str(self.beat(attempt)),
            "caps": caps,
        }

    def beat(self, attempt: Attempt) -> Path:
        """Where a process of this attempt that stayed would be seen."""
        return self.drop / f"{attempt.name}.beat"

    def heard(self) -> int:
        """How often a listener was reached so far."""
        return self._heard

    def is_unchanged(self) -> bool:
        """Whether the canaries are as they were planted, and the host's process is alive."""
        return self.state() == self._before and self.process.poll() is None

    def state(self) -> dict[str, tuple[Any, ...]]:
        """Every name below the vault and the public folder, with what it is and holds."""
        found: dict[str, tuple[Any, ...]] = {}
        for top in (self.vault, self.public):
            if not top.is_dir():
                continue
            for path in [top, *sorted(top.rglob("*"))]:
                status = path.lstat()
                body = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                kept = None if path.is_dir() else status.st_mtime_ns
                found[str(path)] = (status.st_mode, status.st_uid, kept, body)
        return found

    def restore(self) -> None:
        """Plants the canaries anew, after an attempt that changed them, and clears what it left."""
        for path in self.drop.iterdir():
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if self.is_unchanged():
            return
        homeless = not self.vault.exists() or self.process.poll() is not None
        for top in (self.vault, self.public):
            if top.exists():
                top.chmod(0o755)
        for each in [*self.vault.glob("*"), *self.public.glob("*")]:
            if not each.is_socket():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        self._plant()
        if homeless:  # the process, or the folder it stands in, was taken away
            self._end_process()
            self.process = self._started()
        self._before = self.state()

    def _started(self) -> subprocess.Popen[bytes]:
        """A process of the host that holds the token in its command line and its environment."""
        return subprocess.Popen(
            ["bash", "-c", f"sleep 3600; : {self.token}"],
            env={"PATH": os.environ["PATH"], VARIABLE: self.token},
            cwd=self.vault,
            start_new_session=True,
        )

    def _end_process(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _plant(self) -> None:
        for top in (self.vault, self.public):
            top.mkdir(exist_ok=True)
            top.chmod(0o755)
        self.secret.write_text(f"{self.token}\n")
        (self.vault / f"{self.token}.txt").touch()
        (self.vault / "token.txt").write_text(self.token)
        (self.vault / "kept.py").write_text(f"TOKEN = {self.token!r}\n")
        (self.public / "page.txt").write_text(PAGE)
        notes = sqlite3.connect(self.vault / "notes.db")
        notes.execute("create table notes (text)")
        notes.execute("insert into notes values (?)", (self.token,))
        notes.commit()
        notes.close()

    def _doors(self) -> None:
        """Sockets in the folder that may be read. Named from there: an address has 107 bytes."""
        here = Path.cwd()
        os.chdir(self.public)
        try:
            for name, kind in (("door", socket.SOCK_STREAM), ("box", socket.SOCK_DGRAM)):
                self._listen(_bound(kind, name))
        finally:
            os.chdir(here)

    def _listen(self, each: socket.socket) -> None:
        each.setblocking(False)
        self._sockets.append(each)
        self._selector.register(each, selectors.EVENT_READ)

    def _serve(self) -> None:
        """Counts whoever comes, and gives the token to those who can be answered."""
        while not self._stop.is_set():
            for key, _ in self._selector.select(timeout=0.05):
                listener: Any = key.fileobj
                with contextlib.suppress(OSError):
                    if listener.type == socket.SOCK_STREAM:
                        caller, _ = listener.accept()
                        with caller:
                            self._heard += 1
                            caller.sendall(f"{self.token}\n".encode())
                    else:
                        listener.recv(9_999)
                        self._heard += 1


def _bound(kind: socket.SocketKind, address: Any) -> socket.socket:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    made = socket.socket(family, kind)
    made.bind(address)
    if kind == socket.SOCK_STREAM:
        made.listen(16)
    return made
