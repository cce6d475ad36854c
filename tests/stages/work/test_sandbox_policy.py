"""What a sandbox is made of, without starting one: policies, needs, filters, groups, programs."""

from __future__ import annotations

import ast
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow import SandboxError
from stageflow.stages.work.sandbox import Machine, SandboxPolicy, kernel, landlock, needs, recipe
from stageflow.stages.work.sandbox.cgroup import Group, GroupLimits, GroupPlace, made, places
from stageflow.stages.work.sandbox.diagnosis import as_json, as_text, problems
from stageflow.stages.work.sandbox.machine import machine_from
from stageflow.stages.work.sandbox.program import START, python_program, value_in
from stageflow.stages.work.sandbox.seccomp import ALLOW, KILL, Allowance, filter_program
from stageflow.stages.work.sandbox.syscalls import ALLOWED, ARCHITECTURES, KILLED
from tests.stages.work.sandbox_filter import answer

WHOLE = Machine(
    platform="linux",
    architecture="x86_64",
    kernel="6.1",
    root=False,
    landlock_abi=4,
    seccomp=True,
    no_namespaces="",
    no_proc="",
    no_wasm="",
    cgroups=tuple(
        GroupPlace(name, 1, f"/sys/fs/cgroup/{name}") for name in ("memory", "cpu", "pids")
    ),
)
"""A machine that has everything."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("read", ("relative",)),
        ("read", ("/",)),
        ("read", ("/proc/self",)),
        ("read", ("/nowhere/at/all",)),
        ("read", ("/usr/../etc",)),
        ("write", ("/tmp",)),
        ("write", "/var"),
        ("network", ("example.com",)),
        ("network", ("example.com:0",)),
        ("network", ("-x:80",)),
        ("network", ("a b:80",)),
        ("memory_bytes", 1),
        ("memory_bytes", 1e9),
        ("cpu_s", float("nan")),
        ("cpu_s", 0),
        ("wall_s", -1.0),
        ("wall_s", float("inf")),
        ("tasks_max", True),
        ("output_bytes", None),
        ("environment", {"LD_PRELOAD": "/x.so"}),
        ("environment", {"A=B": "1"}),
        ("environment", {"A": "x\0y"}),
    ],
)
def test_a_policy_refuses_what_it_could_not_mean(field: str, value: Any) -> None:
    with pytest.raises(SandboxError) as caught:
        SandboxPolicy(**{field: value})
    assert (caught.value.code, caught.value.field) == ("sandbox.policy", field)


def test_a_policy_is_a_value(tmp_path: Path) -> None:
    given = {"A": "1"}
    policy = SandboxPolicy(read=(str(tmp_path),), environment=given)
    given["A"] = "2"
    assert policy.environment["A"] == "1"
    assert policy.endpoints() == ()


@pytest.mark.parametrize(
    ("lacking", "feature"),
    [
        ({"no_namespaces": "EPERM"}, "filesystem, network, processes"),
        ({"landlock_abi": 0}, "filesystem, second wall"),
        ({"seccomp": False}, "system calls"),
        ({"architecture": "riscv64"}, "platform"),
        ({"cgroups": WHOLE.cgroups[1:]}, "memory_bytes"),
        ({"cgroups": ()}, "cpu_s"),
        ({"cgroups": (), "root": True}, "tasks_max"),
    ],
)
def test_what_a_machine_lacks_is_an_unmet_need_with_a_mend(
    lacking: dict[str, Any], feature: str
) -> None:
    machine = replace(WHOLE, **lacking)
    unmet = {
        each.feature: each for each in needs(SandboxPolicy(), machine, "process") if not each.met
    }
    assert unmet[feature].mend
    assert problems(machine, "process")


def test_one_task_needs_no_control_group() -> None:
    machine = replace(WHOLE, cgroups=(), root=True)
    policy = SandboxPolicy(tasks_max=1)
    assert all(each.met for each in needs(policy, machine, "process"))
    assert recipe.rlimits(policy, machine, wasm=False)["RLIMIT_AS"] == policy.memory_bytes


def test_a_guest_without_walls_has_no_scratch_and_never_a_network() -> None:
    machine = replace(WHOLE, no_namespaces="EPERM")
    unmet = [each.feature for each in needs(SandboxPolicy(), machine, "wasm") if not each.met]
    assert unmet == ["scratch_bytes"]
    open_policy = SandboxPolicy(network=("example.com:443",), scratch_bytes=0)
    unmet = [each.feature for each in needs(open_policy, machine, "wasm") if not each.met]
    assert unmet == ["network"]


def test_the_doctor_says_the_same_as_text_and_as_data() -> None:
    machine = replace(WHOLE, cgroups=())
    data = as_json(machine, ("process", "wasm"))
    assert json.loads(json.dumps(data)) == data
    assert not data["back_ends"]["process"]["ready"] and data["back_ends"]["wasm"]["ready"]
    text = as_text(machine, ("process", "wasm"))
    assert "no group can be made" in text and "process back end: can not hold" in text
    assert machine_from(json.loads(json.dumps(machine.to_json()))) == machine


# -- the filter ----------------------------------------------------------------------------------

CLOSED, TCP, SINGLE = Allowance(False, True), Allowance(True, True), Allowance(False, False)
DENIED = 0x00050000


def asked(
    name: str, *arguments: int, allowance: Allowance = CLOSED, machine: str = "x86_64"
) -> int:
    architecture = ARCHITECTURES[machine]
    program = filter_program(architecture, allowance)
    number = architecture.numbers[name]
    return answer(program, arch=architecture.audit, number=number, arguments=arguments)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_each_listed_call_has_its_answer(machine: str) -> None:
    looked_at = {"ioctl", "personality", "clone", "clone3", "socketpair", "fork", "vfork"}
    for name in ARCHITECTURES[machine].numbers:
        given = asked(name, machine=machine)
        if name in KILLED:
            assert given == KILL, name
        elif name in ALLOWED - looked_at:
            assert given == ALLOW, name
    assert not ALLOWED & KILLED


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_other_numbers_and_other_architectures_are_not_answered(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    program = filter_program(architecture, TCP)
    assert answer(program, arch=architecture.audit, number=425) == DENIED | errno.ENOSYS  # io_uring
    assert answer(program, arch=architecture.audit, number=9_999) == DENIED | errno.ENOSYS
    assert answer(program, arch=0x40000003, number=1) == KILL  # i386, by int 0x80
    if architecture.x32:
        assert answer(program, arch=architecture.audit, number=0x40000000 | 1) == KILL


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_sockets_are_those_of_the_allow_list(machine: str) -> None:
    cloexec, stream, datagram = 0o2000000, 1, 2
    for name in ("socket", "connect", "bind", "listen", "accept"):
        assert asked(name, 2, stream, machine=machine) == DENIED | errno.EPERM
    for family in (2, 10):
        made = asked("socket", family, stream | cloexec, 6, allowance=TCP, machine=machine)
        assert made == ALLOW
    for given in ((1, stream), (2, datagram), (2, 3, 1), (16, 3), (17, stream), (2, stream, 132)):
        refused = asked("socket", *given, allowance=TCP, machine=machine)
        assert refused == DENIED | errno.EPERM, given
    assert asked("connect", 3, allowance=TCP, machine=machine) == ALLOW
    assert asked("bind", 3, allowance=TCP, machine=machine) == DENIED | errno.EPERM
    assert asked("socketpair", 1, stream | cloexec, machine=machine) == ALLOW
    assert asked("socketpair", 1, datagram, machine=machine) == DENIED | errno.EPERM


@pytest.mark.parametrize("flag", [1 << shift for shift in (17, 25, 26, 27, 28, 29, 30)] + [0x80])
def test_no_clone_begins_a_namespace(flag: int) -> None:
    assert asked("clone", 0x3D0F00) == ALLOW  # a thread
    assert asked("clone", flag | 17) == DENIED | errno.EPERM
    assert asked("clone3") == DENIED | errno.ENOSYS


def test_one_task_stays_one() -> None:
    for name in ("clone", "fork", "vfork"):
        assert asked(name, 0x3D0F00, allowance=SINGLE) == DENIED | errno.EAGAIN


def test_nobody_types_into_the_terminal_or_turns_off_randomness() -> None:
    assert asked("ioctl", 0, 0x5401) == ALLOW
    assert asked("ioctl", 0, 0x5412) == asked("ioctl", 0, 0x541C) == DENIED | errno.EPERM
    assert asked("personality", 0) == asked("personality", 0xFFFFFFFF) == ALLOW
    assert asked("personality", 0x0040000) == DENIED | errno.EPERM


def test_upper_halves_of_arguments_hide_nothing() -> None:
    """The kernel reads these arguments as 32 bits; so does the filter."""
    assert asked("ioctl", 0, (1 << 32) | 0x5412) == DENIED | errno.EPERM
    assert asked("clone", (1 << 32) | 0x10000000) == DENIED | errno.EPERM


# -- Landlock, plans, groups, programs -----------------------------------------------------------


def test_landlock_asks_of_an_older_kernel_what_it_knows() -> None:
    assert len(landlock.ruleset_attributes(1, tcp=False)) == 8
    assert len(landlock.ruleset_attributes(4, tcp=False)) == 16
    assert len(landlock.ruleset_attributes(7, tcp=False)) == 24
    assert landlock.all_rights(4) == landlock.all_rights(3) == (1 << 15) - 1
    assert landlock.READ & ~landlock.all_rights(1) == 0


def test_a_plan_grants_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    policy = SandboxPolicy(
        read=(str(tmp_path / "in"),),
        write=(str(tmp_path / "out"),),
        network=("one.example:443", "two.example:80"),
        environment={"A": "1"},
    )
    binds = recipe.granted(policy, wasm=False)
    writable = {each.inside for each in binds if each.writable and not each.device}
    assert writable == {str(tmp_path / "out")}
    found = recipe.made_of(policy, WHOLE, "process", recipe.Errand(("/bin/true",)), binds)
    assert json.loads(json.dumps(found)) == found
    assert set(found["environment"]) == {"PATH", "HOME", "TMPDIR", "LANG", "USER", "A"}
    rights = dict(found["landlock"]["rules"])
    assert rights[str(tmp_path / "in")] == landlock.READ
    assert rights[str(tmp_path / "out")] == landlock.writing(4)
    assert [port for _, port in found["listen"]] == [443, 80]
    assert "one.example" in found["etc"]["hosts"]
    assert found["namespaces"] & kernel.CLONE_NEWPID


def test_links_are_followed_when_the_sandbox_is_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (bind,) = recipe.granted(SandboxPolicy(read=(str(tmp_path / "link"),)), wasm=True)
    assert (bind.source, bind.inside) == (os.path.realpath(tmp_path / "real"), f"{tmp_path}/link")


CGROUPS = "9:name=systemd:/\n8:pids:/a\n4:memory:/own/b\n2:cpu,cpuacct:/\n0::/user.slice/x\n"
MOUNTS = """\
30 25 0:26 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
31 25 0:27 /own /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 25 0:30 / / rw - ext4 /dev/vda rw
"""


def test_places_of_groups_are_found_in_both_versions() -> None:
    found = {(each.controller, each.version): each.folder for each in places(CGROUPS, MOUNTS)}
    assert found["pids", 1] == "/sys/fs/cgroup/pids/a"
    assert found["memory", 1] == "/sys/fs/cgroup/memory/b"
    assert found["cpu", 1] == "/sys/fs/cgroup/cpu"
    assert found["memory", 2] == "/sys/fs/cgroup/unified/user.slice/x"


def test_version_2_shares_one_folder_and_reads_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On files that stand for a kernel's; a real one of this version is not on every machine."""
    monkeypatch.setattr(Path, "rmdir", lambda self: None)
    where = [GroupPlace(name, 2, str(tmp_path)) for name in ("memory", "pids", "cpu")]
    with made(where, "one", GroupLimits(memory_bytes=100, tasks_max=3)) as group:
        folder = tmp_path / "one"
        (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
        (folder / "memory.events").write_text("oom 1\noom_kill 1\n")
        assert (folder / "memory.max").read_text() == "100"
        assert (folder / "memory.oom.group").read_text() == "1"
        assert (folder / "pids.max").read_text() == "3"
        group.add(7)
        assert (folder / "cgroup.procs").read_text() == "7"
        assert (group.cpu_s(), group.out_of_memory()) == (2.5, True)
        assert group.memory_peak_bytes() is None


def test_without_groups_nobody_counts() -> None:
    group = Group({})
    assert (group.cpu_s(), group.memory_peak_bytes(), group.out_of_memory()) == (None, None, False)


@pytest.mark.parametrize("inputs", [{"a": object()}, {"a": float("nan")}, {"a": "x" * 5_000_000}])
def test_inputs_without_a_form_are_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(SandboxError) as caught:
        python_program("pass", inputs, nonce="00")
    assert caught.value.code == "sandbox.inputs"


def test_a_programs_text_and_inputs_come_back_as_they_were() -> None:
    """No quote, brace, NUL or lone surrogate of theirs ends up as anything but data."""
    tricky = "'''{x}\\\n\"\"\"\0 é \ud800"
    told = python_program(tricky, {"a": [tricky, None, 1.5]}, nonce="ab").told
    length, text = int(told[:12]), told[12:]
    assert length == len(text)
    mark, code, inputs = ast.literal_eval(text.decode("utf-8", "surrogatepass"))
    assert (mark, code, inputs) == ("\x1eab\x1e", tricky, {"a": [tricky, None, 1.5]})
    compile(START, "start.py", "exec")


def test_the_value_is_behind_the_last_mark() -> None:
    assert value_in(b"x\x1eab\x1e[1]", b"\x1eab\x1e") == (b"x", [1])
    assert value_in(b"x", b"\x1eab\x1e") == (b"x", None)
    assert value_in(b"\x1eab\x1e{", b"\x1eab\x1e") == (b"", None)
    assert value_in(b"m" + b"[" * 100_000, b"m") == (b"", None)
