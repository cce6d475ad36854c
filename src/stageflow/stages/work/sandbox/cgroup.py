"""Control groups, version 1 and 2: how much all processes of one run may use together.

Where groups can be made is read from /proc/self/cgroup and /proc/self/mountinfo; the rest is files.
Sources: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEMORY, TASKS, CPU = "memory", "pids", "cpu"
_V1_NAMES: Final = {"memory": MEMORY, "pids": TASKS, "cpuacct": CPU}
_REMOVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """A folder in which groups of one controller can be made, and the version it speaks."""

    controller: str
    version: int
    folder: str


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """None leaves that to others."""

    memory_bytes: int | None
    tasks_max: int | None


def places(cgroups: str, mounts: str) -> list[GroupPlace]:
    """Where this process stands in each hierarchy: `cgroups` and `mounts` are the texts of
    /proc/self/cgroup and /proc/self/mountinfo. A place may still refuse to be written.

    Version 2 gives one place for each controller that its folder may hand on.
    """
    found = []
    roots = list(_mounted(mounts))
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",") if controllers else []
        for version, options, root, folder in roots:
            if version == 2 and not names:
                at = _joined(folder, root, path)
                found += [GroupPlace(each, 2, at) for each in (MEMORY, TASKS, CPU)]
            elif version == 1 and set(names) & options & _V1_NAMES.keys():
                known = set(names) & options & _V1_NAMES.keys()
                at = _joined(folder, root, path)
                found += [GroupPlace(_V1_NAMES[name], 1, at) for name in sorted(known)]
    return found


def usable(candidates: list[GroupPlace]) -> list[GroupPlace]:
    """Those of `candidates` where a group could be made now, one a controller; tries it."""
    found: dict[str, GroupPlace] = {}
    for place in sorted(candidates, key=lambda each: each.version):
        if place.controller not in found and _works(place):
            found[place.controller] = place
    return list(found.values())


class Group:
    """One run's groups, made on entry of `made`. Not thread-safe; its run's supervisor owns it."""

    def __init__(self, folders: Mapping[str, tuple[int, Path]]) -> None:
        self._folders = folders

    def add(self, pid: int) -> None:
        """Moves a process in; what it starts afterwards is in as well."""
        for _, folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def cpu_s(self) -> float | None:
        """Processor seconds of all that ever was in it; None when nobody counts."""
        if CPU not in self._folders:
            return None
        version, folder = self._folders[CPU]
        if version == 1:
            return int((folder / "cpuacct.usage").read_text()) / 1e9
        return _field(folder / "cpu.stat", "usage_usec") / 1e6

    def memory_peak_bytes(self) -> int | None:
        """The most memory held at once; None when nobody counts."""
        if MEMORY not in self._folders:
            return None
        version, folder = self._folders[MEMORY]
        name = "memory.max_usage_in_bytes" if version == 1 else "memory.peak"
        try:
            return int((folder / name).read_text())
        except FileNotFoundError:  # memory.peak came with Linux 5.19
            return None

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended a process for lack of memory."""
        if MEMORY not in self._folders:
            return False
        version, folder = self._folders[MEMORY]
        name = "memory.oom_control" if version == 1 else "memory.events"
        return _field(folder / name, "oom_kill") > 0


@contextlib.contextmanager
def made(where: list[GroupPlace], name: str, limits: GroupLimits) -> Iterator[Group]:
    """New groups called `name` with `limits`; removed at the end, by when they must be empty."""
    folders: dict[str, tuple[int, Path]] = {}
    try:
        for place in where:
            folder = Path(place.folder, name)
            folder.mkdir(exist_ok=any(folder == known for _, known in folders.values()))
            folders[place.controller] = (place.version, folder)
        _limit(folders, limits)
        yield Group(folders)
    finally:
        for _, folder in set(folders.values()):
            _remove(folder)


def _limit(folders: Mapping[str, tuple[int, Path]], limits: GroupLimits) -> None:
    if limits.memory_bytes is not None and MEMORY in folders:
        version, folder = folders[MEMORY]
        if version == 1:
            (folder / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
            swap = folder / "memory.memsw.limit_in_bytes"
        else:
            (folder / "memory.max").write_text(str(limits.memory_bytes))
            (folder / "memory.oom.group").write_text("1")
            swap = folder / "memory.swap.max"
        if swap.exists():
            swap.write_text(str(limits.memory_bytes if version == 1 else 0))
    if limits.tasks_max is not None and TASKS in folders:
        (folders[TASKS][1] / "pids.max").write_text(str(limits.tasks_max))


def _works(place: GroupPlace) -> bool:
    """Makes and removes a group, and looks for the files that it would be limited by."""
    needed = {
        (MEMORY, 1): "memory.limit_in_bytes",
        (TASKS, 1): "pids.max",
        (CPU, 1): "cpuacct.usage",
        (MEMORY, 2): "memory.max",
        (TASKS, 2): "pids.max",
        (CPU, 2): "cpu.stat",
    }[place.controller, place.version]
    folder = Path(place.folder, f"stageflow-try-{os.getpid()}-{place.controller}")
    try:
        if place.version == 2:
            _hand_on(Path(place.folder), place.controller)
        folder.mkdir()
    except OSError:
        return False
    try:
        return os.access(folder / needed, os.R_OK | (0 if place.controller == CPU else os.W_OK))
    finally:
        _remove(folder)


def _hand_on(folder: Path, controller: str) -> None:
    """Lets groups below `folder` use the controller. Refused where `folder` holds processes."""
    control = folder / "cgroup.subtree_control"
    if controller not in control.read_text().split():
        control.write_text(f"+{controller}")


def _remove(folder: Path) -> None:
    """The kernel lets go of a group a moment after its last process has gone."""
    until = time.monotonic() + _REMOVAL_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.002)
        else:
            return


def _mounted(mounts: str) -> Iterator[tuple[int, set[str], str, str]]:
    """(version, options, root inside the hierarchy, where it is mounted) of each hierarchy."""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind and kind[0] in ("cgroup", "cgroup2"):
            version = 2 if kind[0] == "cgroup2" else 1
            yield version, set(kind[-1].split(",")), fields[3], fields[4]


def _joined(folder: str, root: str, path: str) -> str:
    """`path` of a hierarchy whose `root` is mounted at `folder`."""
    inside = os.path.relpath(path, root) if path.startswith(root) else "."
    return os.path.normpath(os.path.join(folder, inside))  # noqa: PTH118


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
