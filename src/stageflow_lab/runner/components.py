"""Whether the things a scenario needs outside the lab are here."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ..errors import LabError

SERVICE_PORTS: Final[Mapping[str, int]] = MappingProxyType(
    {"postgresql": 5432, "redis": 6379, "nats": 4222, "qdrant": 6333, "kubernetes": 6443}
)
_CONNECT_TIMEOUT_S: Final = 1.0


def absent(components: Iterable[str]) -> tuple[str, ...]:
    """Those of `components` that are not here.

    "python:NAME" is an importable module, "command:NAME" a program on the path, "platform:linux" a
    `sys.platform`, "service:NAME" or "service:NAME:PORT" something that listens on loopback,
    "gpu:cuda" a driver. Raises LabError `lab.component` for any other form.
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
    if component == "gpu:cuda":
        return shutil.which("nvidia-smi") is not None
    if kind == "service":
        port = _port(name)
        if port is not None:
            return _listens(port)
    raise LabError(
        "lab.component",
        f"a scenario needs a component of an unknown form: {component!r}.",
        expected="python:NAME, command:NAME, platform:NAME, service:NAME[:PORT] or gpu:cuda; "
        f"services known by name: {', '.join(SERVICE_PORTS)}",
        got=component,
        fix="write the component in one of those forms",
    )


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
