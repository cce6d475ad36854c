"""An owner is one process: not its successor under the same pid, not its zombie, not its child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.journal.store import Owner

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def test_this_process_is_alive() -> None:
    assert Owner.this_process().is_alive() is True
    assert Owner.this_process() == Owner.this_process()


def test_a_reused_pid_is_not_the_owner() -> None:
    me = Owner.this_process()
    assert replace(me, started=me.started + 1).is_alive() is False


def test_an_earlier_boot_is_dead_and_another_host_unknown() -> None:
    me = Owner.this_process()
    assert replace(me, boot="earlier").is_alive() is False
    assert replace(me, host="elsewhere").is_alive() is None


def test_a_killed_process_is_dead_before_and_after_it_is_reaped() -> None:
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        owner = Owner.of_process(process.pid)
        assert owner.is_alive() is True
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
        assert owner.is_alive() is False
        process.wait()
        assert owner.is_alive() is False


def test_a_name_with_parentheses_and_spaces_does_not_hide_the_start_time(tmp_path: Path) -> None:
    program = tmp_path / "a) 7 (b"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = Owner.of_process(process.pid)
        assert owner.started >= Owner.this_process().started
        assert owner.is_alive() is True
        process.kill()


def test_a_forked_child_is_another_owner() -> None:
    parent = Owner.this_process()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        me = Owner.this_process()
        os.write(write, b"1" if me != parent and me.pid == os.getpid() else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)
