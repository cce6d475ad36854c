"""Files of a folder, as an undo log's resource.

A file system knows no write under a condition. On Linux one is made of three things: a write lease
keeps others from opening the file while it is compared (fcntl(2), "Leases"); RENAME_EXCHANGE
(renameat2(2)) swaps the new file for the old one without destroying it; and what came out is looked
at: when it is not the file that was compared, it goes back. The names of files that lie aside say
what they are, so that a death in between loses nobody's edit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import re
import signal
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from stageflow.model.errors import BuildError, EffectError
from stageflow.stages.work.unbroken import to_its_end
from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import Changed, FormLost, WriteRefused, wrong_option

try:
    import fcntl
except ImportError:  # not on Windows, where everything else here is wanted all the same
    fcntl = None  # type: ignore[assignment]

IN_USE_S: Final = 5.0
"""How long others may have a file open before a write of it is given up; less than
`UndoRules.act_s`."""
PAUSE_S: Final = 0.005
OPENING_S: Final = 0.02
"""How long somebody may take from looking a path up to opening what is there: until then who has
found the old file may come to open it."""
BYTES_MAX: Final = 64 * 2**20
NAME_BYTES_MAX: Final = 100
MODE: Final = 0o644
"""Of a file that is new."""
_EXCHANGE: Final = 2
_NO_REPLACE: Final = 1
_AT_CWD: Final = -100
_ASIDE, _DRAFT = ".undo", ".undo-draft"
_NO_LEASES: Final = (errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


class FileContent(msgspec.Struct, frozen=True, array_like=True):
    """What is put back of a file."""

    mode: int
    data: bytes


_content = msgspec.msgpack.Decoder(FileContent)


class Files:
    """The regular files below the folder `root`, by their relative path with `/`.

    To people a file is its bytes; a change takes bytes or a str, and keeps the mode of a file that
    is there. An edit that came and went is seen by the file's inode and time. On a file system
    without leases, or for another user's files, an edit in place that began before a write and
    ends after it is lost; elsewhere none is, unless its editor is stopped for longer than
    OPENING_S between looking the file up and opening it.
    """

    in_flight_s = 0.0

    def __init__(self, root: str | os.PathLike[str], *, name: str | None = None) -> None:
        if fcntl is None or not hasattr(fcntl, "F_SETLEASE"):
            raise BuildError(
                "undo.platform",
                "files can be put back without overwriting others on Linux only",
                expected="Linux: leases and RENAME_EXCHANGE",
                got=sys.platform,
                fix="declare changes of files as Irreversible(...) here",
            )
        if not isinstance(root, (str, os.PathLike)) or root == "":
            raise wrong_option("Files", "root", "the path of a folder", root)
        self._root = Path(root).resolve()
        self.name = f"files of {self._root.name}" if name is None else name

    async def read(self, key: str) -> State:
        return await self._in_thread(lambda: self._read(key))

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        return await self._in_thread(lambda: self._write(key, content, expected))

    async def encoded(self, value: Any, before: State) -> bytes | None:
        if value is None:
            return None
        data = value.encode() if isinstance(value, str) else value
        if not isinstance(data, bytes) or len(data) > BYTES_MAX:
            raise EffectError(
                "undo.value",
                f"this is no content of a file of {self.name!r}",
                expected=f"bytes or a str of at most {BYTES_MAX} bytes, or None for no file",
                got=type(value).__name__,
                fix="timeline.change(files, 'notes/a.txt', 'text')",
            )
        mode = MODE if before.content is None else _content.decode(before.content).mode
        return _encoder.encode(FileContent(mode, data))

    def value(self, content: bytes | None) -> bytes | None:
        return None if content is None else _content.decode(content).data

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        raise FormLost("a file has one form only")

    def _read(self, key: str) -> State:
        file = _File(self._path(key), key)
        if file.left():
            with file.locked():
                file.mend()
        return file.state()

    def _write(self, key: str, content: bytes | None, expected: State) -> State:
        file = _File(self._path(key), key)
        with file.locked():
            file.mend()
            return file.replaced(content, expected)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        path = self._root.joinpath(*parts)
        is_right = all(part not in ("", ".", "..") for part in parts) and "\0" not in key
        if not is_right or not path.parent.resolve().is_relative_to(self._root):
            raise _no_file(key, "a path that leads out of the folder")
        if not path.parent.is_dir():
            raise _no_file(key, "a folder that is not there")
        return path

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await to_its_end(asyncio.to_thread(work))


class _File:
    """One path, in a worker thread.

    What lies aside is named `.NAME.INODE-TIME-INODE-TIME.undo`: by the new file (0-0 when there is
    to be none) and by the file that is swapped for it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        name = path.name
        if len(os.fsencode(name)) > NAME_BYTES_MAX:  # what lies aside has a longer one
            name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
        self._stem = f".{name}."
        self._until_s = time.monotonic() + IN_USE_S

    # -- reading -----------------------------------------------------------------------------

    def state(self) -> State:
        descriptor = self._opened()
        if descriptor is None:
            return State(None)
        with os.fdopen(descriptor, "rb") as file:
            return self._state_of(file)

    def _opened(self) -> int | None:
        """A descriptor of the file, None when there is none."""
        while True:
            try:
                return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            except BlockingIOError:  # another process is writing here by this very class
                self._pause()
            except OSError as error:
                raise _no_file(self.key, error.strerror or "no file") from error

    def _state_of(self, file: Any) -> State:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > BYTES_MAX:
            raise _no_file(self.key, "no regular file, or one that is too large")
        content = FileContent(stat.S_IMODE(status.st_mode), file.read())
        return State(_encoder.encode(content), _version(os.fstat(file.fileno())))

    def _pause(self) -> None:
        if time.monotonic() > self._until_s:
            raise EffectError(
                "undo.in_use",
                f"others keep {self.key!r} open",
                field=self.key,
                expected=f"a moment within {IN_USE_S:g} s in which nobody has it open",
                fix="try again when whoever has it open is done",
            )
        time.sleep(PAUSE_S)

    # -- writing -----------------------------------------------------------------------------

    def replaced(self, content: bytes | None, expected: State) -> State:
        """`content` at the path, if what is there is as expected; else Changed."""
        if expected.content is None:
            return self._created(content)
        while True:
            with self._leased() as (file, is_awaited):
                if self._state_of(file) != expected:
                    raise Changed
                mark = _mark(os.fstat(file.fileno()))
                if self._swapped(content, mark, is_awaited):
                    return State(None) if content is None else self._state_after(content)
            # Somebody came to open it meanwhile: let him, and look at what he made of it.
            self._pause()

    def _state_after(self, content: bytes) -> State:
        """Right after a write: what is there, when it is that; else what was written."""
        try:
            now = self.state()
        except WriteRefused:  # others made something else of it: the write happened all the same
            return State(content)
        return now if now.content == content else State(content)

    def _created(self, content: bytes | None) -> State:
        if content is None:
            return State(None)
        aside = self._written(content, (0, 0))
        try:
            os.link(aside, self.path)
        except FileExistsError:
            raise Changed from None
        finally:
            aside.unlink()
        self._sync()
        return self._state_after(content)

    def _swapped(
        self, content: bytes | None, mark: tuple[int, int], is_awaited: Callable[[], bool]
    ) -> bool:
        """Whether the file with this mark was swapped for `content`; else all is as it was."""
        if content is None:
            own, aside = (0, 0), self._aside((0, 0), mark)
            if not _renamed(self.path, aside, _NO_REPLACE):
                return False  # it is gone meanwhile
            if _mark(aside.stat()) != mark or _soon(is_awaited):
                return not self._put_back(aside, own, _nobody)
            aside.unlink()
            self._sync()
            return True
        aside = self._written(content, mark)
        own = _mark(aside.stat())
        with aside.open("rb") as new:
            # Who finds the new file waits for it until it is known which of the two stays.
            is_new_awaited = functools.partial(_is_awaited, new.fileno(), _lease(new.fileno()))
            if not _renamed(aside, self.path, _EXCHANGE):
                aside.unlink()
                return False
            if _mark(aside.stat()) != mark or _soon(is_awaited):
                return not self._put_back(aside, own, is_new_awaited)
        aside.unlink()
        self._sync()
        return True

    def _written(self, content: bytes, expected: tuple[int, int]) -> Path:
        """A new file beside the path, on the disk, under a name that says what it is."""
        wanted = _content.decode(content)
        draft = self.path.with_name(f"{self._stem}{uuid.uuid4().hex}{_DRAFT}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, wanted.mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(wanted.data)
            file.flush()
            os.fchmod(descriptor, wanted.mode)
            os.fsync(descriptor)
        aside = self._aside(_mark(draft.stat()), expected)
        draft.rename(aside)
        return aside

    def _aside(self, own: tuple[int, int], expected: tuple[int, int]) -> Path:
        numbers = "-".join(map(str, (*own, *expected)))
        return self.path.with_name(f"{self._stem}{numbers}{_ASIDE}")

    def _sync(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # -- what others edited meanwhile --------------------------------------------------------

    def _put_back(
        self, aside: Path, own: tuple[int, int], is_new_awaited: Callable[[], bool]
    ) -> bool:
        """What was swapped out is somebody's edit, or is about to be: whether it is back. It is not
        where somebody else has edited what was swapped in, or is about to."""
        if own == (0, 0):
            is_back = _renamed(aside, self.path, _NO_REPLACE)
        else:
            is_back = (
                _mark_at(self.path) == own
                and not is_new_awaited()
                and _renamed(aside, self.path, _EXCHANGE)
            )
            if is_back and _mark_at(aside) == own and not _soon(is_new_awaited):
                aside.unlink()
                return True
        if not is_back or own != (0, 0):
            self._keep(aside)
        return is_back

    def _keep(self, aside: Path) -> None:
        """Two others edited at one moment: one edit is at the path, this one beside it."""
        aside.rename(self.path.with_name(f"{self.path.name}.kept-{aside.stat().st_ino}"))

    def mend(self) -> None:
        """Puts right what a process that died here has left aside; under the lock."""
        names = re.compile(re.escape(self._stem) + r"(\d+-\d+-\d+-\d+)" + _ASIDE)
        for aside in self.left():
            named = names.fullmatch(aside.name)
            if named is None:
                aside.unlink()  # a draft
            else:
                numbers = tuple(map(int, named[1].split("-")))
                self._mend_aside(aside, numbers[:2], numbers[2:])

    def left(self) -> list[Path]:
        """What lies aside: somebody is writing, or was."""
        return [
            each
            for each in self.path.parent.iterdir()
            if each.name.startswith(self._stem) and each.name.endswith((_ASIDE, _DRAFT))
        ]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes in this folder by this class; a process that dies lets go."""
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._pause()
            yield
        finally:
            os.close(descriptor)

    def _mend_aside(self, aside: Path, own: tuple[int, ...], expected: tuple[int, ...]) -> None:
        now = _mark(aside.stat())
        if now == own or (now == expected and _is_nobodys(aside)):
            aside.unlink()  # it was never where others look, or it was what is on record
        else:
            self._put_back(aside, (own[0], own[1]), _nobody)

    # -- leases ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _leased(self) -> Iterator[tuple[Any, Callable[[], bool]]]:
        """The open file, which nobody else has open; and whether somebody waits to open it."""
        while True:
            descriptor = self._opened()
            if descriptor is None:
                raise Changed
            with os.fdopen(descriptor, "rb") as file:
                is_leased = _lease(descriptor)
                if is_leased is not False:
                    yield file, functools.partial(_is_awaited, descriptor, is_leased)
                    return
            self._pause()


def _lease(descriptor: int) -> bool | None:
    """Takes a write lease; False when others have the file open, None when there are no leases."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored unless handled
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        if error.errno in _NO_LEASES:
            return None
        raise
    return True


def _is_awaited(descriptor: int, is_leased: bool | None) -> bool:
    return is_leased is True and fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK


def _soon(is_awaited: Callable[[], bool]) -> bool:
    """Whether somebody comes to open the file while it can still be told."""
    until_s = time.monotonic() + OPENING_S
    while not is_awaited():
        if time.monotonic() > until_s:
            return False
        time.sleep(PAUSE_S)
    return True


def _is_nobodys(path: Path) -> bool:
    """Whether nobody has the file open, and so nobody is about to edit it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return _lease(descriptor) is not False
    finally:
        os.close(descriptor)


def _mark(status: os.stat_result) -> tuple[int, int]:
    """What tells a file from one that was put in its place, or written again."""
    return status.st_ino, status.st_mtime_ns


def _version(status: os.stat_result) -> str:
    return ":".join(map(str, _mark(status)))


def _mark_at(path: Path) -> tuple[int, int] | None:
    try:
        return _mark(path.lstat())
    except FileNotFoundError:
        return None


def _nobody() -> bool:
    return False


def _renamed(source: Path, target: Path, flags: int) -> bool:
    """renameat2(2); False when a name that must be there is not, or one that must not is."""
    done = _libc().renameat2(_AT_CWD, os.fsencode(source), _AT_CWD, os.fsencode(target), flags)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.EEXIST):
        return False
    raise EffectError(
        "undo.file_system",
        f"a file can't be exchanged for another one here: {os.strerror(number)}",
        field=target.name,
        expected="a file system with RENAME_EXCHANGE, such as ext4, xfs, btrfs or tmpfs",
        got=errno.errorcode.get(number, str(number)),
        fix="let the folder lie elsewhere, or declare changes there as Irreversible(...)",
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_file(key: str, got: str) -> WriteRefused:
    return WriteRefused(
        "undo.path",
        f"{key!r} is nothing that can be changed and put back",
        field=key,
        expected="a regular file below the folder, or a name for one in a folder that is there",
        got=got,
        fix="a relative path with '/', such as 'notes/a.txt'",
    )
