"""Whether the things a scenario needs outside the lab are here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..errors import LabError

SERVICE_PORTS: Final[Mapping[str, int]] = MappingProxyType(
    {"postgresql": 5432, "redis": 6379, "nats": 4222, "qdrant": 6333, "kubernetes": 6443}
)
PEERS_FOLDER: Final = "STAGEFLOW_LAB_PEERS"
"""Environment variable: the folder below which other frameworks are installed, one folder each."""
_CONNECT_TIMEOUT_S: Final = 1.0


def absent(components: Iterable[str]) -> tuple[str, ...]:
    """Those of `components` that are not here.

    "python:NAME" is an importable module, "command:NAME" a program on the path, "platform:linux" a
    `sys.platform`, "service:NAME" or "service:NAME:PORT" something that listens on loopback,
    "gpu:cuda" a driver, "peer:NAME==VERSION" what `peer_folder` finds. Raises LabError
    `lab.component` for any other form.
    """
    return tuple(each for each in components if not _is_here(each))


def _is_here(component: str) -> bool:
    kind, _, name = component.partition(":")
    if kind == "python" and name:
        return _importable(name)
    if kind == "command" and name:
        return shutil.which(name) is not None
    if kind == "platform" and name:
        return sys.platform == name
    if kind == "peer" and name:
        return peer_folder(component) is not None
    if component == "gpu:cuda":
        return shutil.which("nvidia-smi") is not None
    if kind == "service":
        port = _port(name)
        if port is not None:
            return _listens(port)
    raise LabError(
        "lab.component",
        f"a scenario needs a component of an unknown form: {component!r}.",
        expected="python:NAME, command:NAME, platform:NAME, service:NAME[:PORT], "
        "peer:NAME[==VERSION] or gpu:cuda; "
        f"services known by name: {', '.join(SERVICE_PORTS)}",
        got=component,
        fix="write the component in one of those forms",
    )


def peer_folder(component: str) -> Path | None:
    """The folder to put on the path of a process that uses the peer "peer:NAME==VERSION".

    Peers are installed apart from the lab, since one may be imported under the same name:
    `pip install --target $STAGEFLOW_LAB_PEERS/NAME NAME==VERSION`. None when there is none, or
    another version of it.
    """
    root = os.environ.get(PEERS_FOLDER)
    name, _, version = component.removeprefix("peer:").partition("==")
    if not root:
        return None
    folder = Path(root).absolute() / name
    found = {each.metadata["Name"]: each.version for each in _installed(folder)}
    return folder if name in found and version in ("", found[name]) else None


def _installed(folder: Path) -> Iterable[metadata.Distribution]:
    return metadata.distributions(path=[str(folder)])


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is absent
        return False


def _port(name: str) -> int | None:
    service, _, port = name.partition(":")
    if port:
        return int(port) if port.isdecimal() else None
    return SERVICE_PORTS.get(service)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False
