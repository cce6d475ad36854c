"""Keys that wrap the keys of runs: where the one secret lies that a copied journal lacks.

A run's payloads are sealed with keys of that run. These lie in the journal wrapped by a
key-encryption key, which does not: without it a journal tells no sealed value, and without a run's
wrapped keys neither does the key-encryption key (NIST SP 800-57 part 1 rev. 5, 5.3.6 and 8.3.4).
AES-256-GCM: NIST SP 800-38D; nonces of 96 random bits, new for every call.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from stageflow.model.errors import BuildError, JournalError
from stageflow.model.forms import form_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""By how much a sealed value is longer: its nonce and its tag."""

Random = Callable[[int], bytes]
"""As many unpredictable bytes as asked for."""


class Keys(Protocol):
    """Wraps and unwraps the keys of runs: a file, or whatever speaks to a key service.

    Called once when a run with sealed payloads starts and once when it is read, never for each
    record. Whatever it raises ends the call that needed it as JournalError "seal.keys_failed".
    """

    async def wrap(self, key: bytes, *, bound: bytes) -> bytes:
        """`key` (32 bytes) so that only this can give it back, at most 64 KiB. `bound` tells what
        it is for (a service's encryption context): `unwrap` must fail with another one."""
        ...

    async def unwrap(self, wrapped: bytes, *, bound: bytes) -> bytes:
        """The key that `wrap` was given."""
        ...


@runtime_checkable
class BringsKeys(Protocol):
    """A journal or store that has a place of its own for a key-encryption key."""

    def keys(self) -> Keys | None:
        """What wraps keys when nobody says otherwise; None when there is no such place."""
        ...


class Unsealed:
    """Says that payloads of guarded nodes are to lie in the journal as they are."""

    def __repr__(self) -> str:
        return "UNSEALED"


UNSEALED = Unsealed()
"""`Runtime(keys=UNSEALED)`: the raw values that guards look at can be read in the journal."""


class LocalKeys:
    """Implements Keys with a key-encryption key of 32 bytes that this process holds."""

    def __init__(self, key: bytes, *, random: Random = os.urandom) -> None:
        if len(key) != KEY_BYTES:
            raise _bad_key(f"{len(key)} bytes", "a key-encryption key")
        self._key = key
        self._random = random

    async def wrap(self, key: bytes, *, bound: bytes) -> bytes:
        """As Keys.wrap."""
        return sealed(cipher(self._held()), key, bound=bound, random=self._random)

    async def unwrap(self, wrapped: bytes, *, bound: bytes) -> bytes:
        """As Keys.unwrap; JournalError "seal.wrong_key" when it was wrapped by another key."""
        try:
            return opened(cipher(self._held()), wrapped, bound=bound)
        except ValueError as error:
            raise JournalError(
                "seal.wrong_key",
                "the keys of this run were wrapped by another key-encryption key",
                expected="the key-encryption key that the run was started with",
                got="one that does not fit",
                fix="give the Runtime the keys= of the process that wrote the run",
            ) from error

    def _held(self) -> bytes:
        return self._key


class KeyFile(LocalKeys):
    """Implements Keys with a key-encryption key in a file that only its owner can read.

    The file is made, with 32 random bytes, when a key is wrapped first. BuildError "seal.key_file"
    for one that others may read, or that holds something else. Whoever has both this file and the
    journal reads every sealed value that was not shredded: keep and back them up apart.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or path == "":
            raise _bad_key(form_of(path), "what is no path")
        self._path = Path(path).absolute()
        self._key = b""

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    async def wrap(self, key: bytes, *, bound: bytes) -> bytes:
        """As Keys.wrap; makes the file when there is none."""
        if not self._key and not self._path.exists():
            _make(self._path)
        return sealed(cipher(self._held()), key, bound=bound)

    def _held(self) -> bytes:
        if not self._key:
            self._key = _read(self._path)
        return self._key


def cipher(key: bytes) -> AESGCM:
    """The cipher for `key`, of 32 bytes; BuildError "seal.missing_package" without its package."""
    check_installed()
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # slow to import

    return AESGCM(key)


def check_installed() -> None:
    """Raises BuildError "seal.missing_package" when payloads can't be sealed here."""
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401  (slow to import)
    except ImportError as error:
        raise BuildError(
            "seal.missing_package",
            "what guards look at must be sealed in a journal, which needs a package that is not"
            " installed",
            expected="the package cryptography",
            got=str(error)[:200],
            fix="pip install cryptography, or Runtime(keys=UNSEALED) to keep it readable",
        ) from error


def sealed(with_: AESGCM, value: bytes, *, bound: bytes, random: Random = os.urandom) -> bytes:
    """Nonce, ciphertext and tag of `value`; opens only with the same key and the same `bound`."""
    nonce = random(NONCE_BYTES)
    return nonce + with_.encrypt(nonce, value, bound)


def opened(with_: AESGCM, value: bytes, *, bound: bytes) -> bytes:
    """What `sealed` was given; ValueError when a byte, the key or `bound` is another."""
    from cryptography.exceptions import InvalidTag  # as above

    try:
        return with_.decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], bound)
    except InvalidTag as error:
        raise ValueError("the tag does not fit") from error


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise _bad_key(type(error).__name__, path.name) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _bad_key(f"mode {stat.S_IMODE(mode):o}", path.name)
    if len(key) != KEY_BYTES:
        raise _bad_key(f"{len(key)} bytes", path.name)
    return key


def _bad_key(got: str, name: str) -> BuildError:
    return BuildError(
        "seal.key_file",
        f"{name} can't serve as a key-encryption key",
        field="keys",
        expected=f"{KEY_BYTES} bytes in a file that only its owner can read (mode 600)",
        got=got,
        fix="chmod 600, or restore the file: without it no sealed value can be read",
    )


def _make(path: Path) -> None:
    """Puts a new key there, whole and readable by its owner only, unless there is a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)  # with mode 0600
    made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster: its key counts
            path.hardlink_to(made)
        _sync_folder(path.parent)
    finally:
        made.unlink()


def _sync_folder(path: Path) -> None:
    """The name must outlive a power loss no less than the runs that need the key."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
