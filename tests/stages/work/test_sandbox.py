"""Sandboxes that run: what comes back, what is denied, what ends, in both back ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from stageflow import Pipeline, Runtime, SandboxError, work
from stageflow.stages.work.sandbox import (
    ExitReason,
    Sandbox,
    SandboxPolicy,
    command_tool,
    probe,
    python_tool,
)
from stageflow.stages.work.sandbox.diagnosis import problems
from stageflow.stages.work.sandbox.needs import BACK_ENDS, BackEnd

MACHINE = probe()
UNABLE = {name: "; ".join(problems(MACHINE, name)) for name in BACK_ENDS}
SMALL = SandboxPolicy(
    memory_bytes=64 * 1024**2, cpu_s=5.0, wall_s=20.0, tasks_max=8, output_bytes=20_000
)


def skip_unless_able(back_end: BackEnd) -> None:
    if UNABLE[back_end]:
        pytest.skip(f"this machine can't hold the {back_end} back end: {UNABLE[back_end]}")


@pytest_asyncio.fixture(params=BACK_ENDS)
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    skip_unless_able(request.param)
    async with Sandbox(SMALL, back_end=request.param) as made:
        yield made


@pytest_asyncio.fixture
async def commands() -> AsyncIterator[Sandbox]:
    skip_unless_able("process")
    async with Sandbox(SMALL) as made:
        yield made


async def test_a_program_gives_its_value_its_output_and_what_it_used(sandbox: Sandbox) -> None:
    ran = await sandbox.run_python(
        "import sys\nprint('hello', inputs['who'])\nsys.stderr.write('oh')\n"
        "output = [1, {'a': None}]",
        {"who": "world"},
    )
    assert (ran.ok, ran.exit_code, ran.value) == (True, 0, [1, {"a": None}])
    assert (ran.stdout, ran.stderr) == (b"hello world\n", b"oh")
    assert ran.usage.wall_s > 0 and ran.usage.cpu_s is not None


async def test_what_is_wrong_with_a_program_is_its_result(sandbox: Sandbox) -> None:
    ran = await sandbox.run_python("def f(): return 1 / 0\nf()")
    assert (ran.reason, ran.exit_code) == (ExitReason.ERROR, 1)
    assert b"ZeroDivisionError" in ran.stderr and b"start.py" not in ran.stderr
    assert (await sandbox.run_python("import sys; sys.exit(7)")).exit_code == 7
    assert b"SyntaxError" in (await sandbox.run_python("def")).stderr


async def test_each_cap_ends_a_program_and_is_named(sandbox: Sandbox) -> None:
    ran = await sandbox.run_python("kept = []\nwhile True: kept.append(bytearray(b'x') * 2**20)")
    assert ran.reason is ExitReason.MEMORY
    ran = await sandbox.run_python("while True: print('x' * 1000)")
    assert (ran.reason, ran.exit_code) == (ExitReason.OUTPUT, None)
    assert len(ran.stdout) + len(ran.stderr) == SMALL.output_bytes
    brief = SandboxPolicy(cpu_s=0.3, wall_s=1.0)
    async with Sandbox(brief, back_end=sandbox.back_end) as other:
        spun, slept = await asyncio.gather(
            other.run_python("while True: pass"), other.run_python("import time; time.sleep(60)")
        )
    assert spun.reason in (ExitReason.CPU, ExitReason.WALL)
    assert slept.reason is ExitReason.WALL


async def test_standard_input_is_bytes_that_were_given(sandbox: Sandbox) -> None:
    ran = await sandbox.run_python("import sys; output = sys.stdin.read()", stdin=b"abc")
    assert ran.value == "abc"
    assert (await sandbox.run_python("import sys; output = sys.stdin.read()")).value == ""


async def test_nothing_of_one_run_is_there_in_the_next(sandbox: Sandbox) -> None:
    assert (await sandbox.run_python("open('/tmp/kept', 'w').write('x')")).ok
    ran = await sandbox.run_python("import os; output = os.listdir('/tmp')")
    assert ran.value == []


async def test_secrets_of_the_caller_are_not_inherited(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_TOKEN", "s3cret")
    async with Sandbox(SandboxPolicy(environment={"A": "1"}), back_end=sandbox.back_end) as fresh:
        ran = await fresh.run_python("import os; output = dict(os.environ)")
    assert ran.value["A"] == "1" and "DESK_TOKEN" not in ran.value


async def test_granted_folders_are_read_and_written_and_no_others(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    for name in ("in", "out", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "a").write_text("from the host")
    (tmp_path / "other" / "b").write_text("hidden")
    policy = SandboxPolicy(read=(str(tmp_path / "in"),), write=(str(tmp_path / "out"),))
    code = (
        "def tried(act):\n"
        "    try: return act()\n"
        "    except OSError as error: return type(error).__name__\n"
        "at = inputs['at']\n"
        "output = [tried(lambda: open(at + '/in/a').read()),\n"
        "    tried(lambda: open(at + '/out/c', 'w').write('made')),\n"
        "    tried(lambda: open(at + '/in/a', 'w')), tried(lambda: open(at + '/other/b').read())]"
    )
    async with Sandbox(policy, back_end=sandbox.back_end) as granted:
        ran = await granted.run_python(code, {"at": str(tmp_path)})
    first, second, third, fourth = ran.value
    assert (first, second) == ("from the host", 4)
    assert third.endswith("Error") and fourth.endswith("Error")
    assert (tmp_path / "out" / "c").read_text() == "made"
    assert (tmp_path / "in" / "a").read_text() == "from the host"


async def test_a_link_that_came_later_is_not_followed(tmp_path: Path) -> None:
    """1. A sandbox is made with a granted folder. 2. Somebody who may write beside it puts a link
    to another folder in its place. 3. The next run must not be given that one."""
    skip_unless_able("process")
    (tmp_path / "in").mkdir()
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "secret").touch()
    async with Sandbox(SandboxPolicy(read=(str(tmp_path / "in"),))) as made:
        assert (await made.run(["ls", str(tmp_path / "in")])).stdout == b""
        (tmp_path / "in").rmdir()
        (tmp_path / "in").symlink_to(tmp_path / "vault")
        with pytest.raises(SandboxError) as caught:
            await made.run(["ls", str(tmp_path / "in")])
    assert caught.value.code == "sandbox.start"


async def test_a_command_is_a_list_and_no_shell_reads_it(commands: Sandbox) -> None:
    ran = await commands.run(["echo", "$HOME; id", "*"])
    assert ran.stdout == b"$HOME; id *\n"
    assert (await commands.run(["sh", "-c", "exit 3"])).exit_code == 3
    assert (await commands.run(["sh", "-c", "kill -9 $$"])).exit_code == -9
    for wrong in ("ls -l", [], ["no-such-program"], ["a\0b"], [1]):
        with pytest.raises(SandboxError) as caught:
            await commands.run(wrong)  # type: ignore[arg-type]
        assert caught.value.code == "sandbox.command"


async def test_a_call_that_no_program_makes_ends_it(commands: Sandbox) -> None:
    ran = await commands.run_python("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)")
    assert ran.reason is ExitReason.DENIED


async def test_what_it_started_ends_with_it(commands: Sandbox, tmp_path: Path) -> None:
    policy = SandboxPolicy(write=(str(tmp_path),))
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for fd in (0, 1, 2): os.close(fd)\n"
        "        while True: open(inputs['at'] + '/beat', 'a').write('x'); time.sleep(0.005)\n"
        "    os._exit(0)\n"
        "while not os.path.exists(inputs['at'] + '/beat'): time.sleep(0.005)\n"
    )
    async with Sandbox(policy) as made:
        ran = await made.run_python(code, {"at": str(tmp_path)})
    assert ran.ok
    size = (tmp_path / "beat").stat().st_size
    await asyncio.sleep(0.1)
    assert (tmp_path / "beat").stat().st_size == size


async def test_cancelling_ends_the_program_before_it_is_heard_of(
    commands: Sandbox, tmp_path: Path
) -> None:
    async with Sandbox(SandboxPolicy(write=(str(tmp_path),))) as made:
        code = (
            "import time\n"
            "while True: open(inputs['at'] + '/beat', 'a').write('x'); time.sleep(0.005)"
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(made.run_python(code, {"at": str(tmp_path)}))
            await _there(tmp_path / "beat")
            running.cancel()
        size = (tmp_path / "beat").stat().st_size
        await asyncio.sleep(0.1)
        assert running.cancelled() and (tmp_path / "beat").stat().st_size == size


async def test_no_descriptor_is_left_behind(commands: Sandbox) -> None:
    await commands.run(["true"])
    before = _descriptors()
    for _ in range(5):
        await commands.run(["cat"], stdin=b"x" * 100_000)
        with pytest.raises(SandboxError) as caught:
            await commands.run(["/no/such"])
        assert caught.value.code == "sandbox.command"
    assert _descriptors() == before


async def test_a_program_is_given_three_descriptors(commands: Sandbox) -> None:
    ran = await commands.run(["ls", "/proc/self/fd"])
    assert ran.stdout.split() == [b"0", b"1", b"2", b"3"]  # the last is the folder being listed


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _there(path: Path) -> None:
    """Looks until a program has made the file; the test's own limit ends it."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240  # another process makes it
        await asyncio.sleep(0.01)


async def test_many_at_once_are_each_alone(commands: Sandbox) -> None:
    ran = await asyncio.gather(*(commands.run_python(f"print({n})") for n in range(12)))
    assert [each.stdout for each in ran] == [f"{n}\n".encode() for n in range(12)]


async def test_the_allow_list_reaches_what_is_listed_by_its_name() -> None:
    skip_unless_able("process")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read(99))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    other = socket.create_server(("127.0.0.1", 0))
    port, unlisted = server.sockets[0].getsockname()[1], other.getsockname()[1]
    code = (
        "import socket\n"
        "s = socket.create_connection(('localhost.localdomain', inputs['listed']), 5)\n"
        "s.send(b'hi'); s.shutdown(1); output = [s.recv(99).decode()]\n"
        "for at in (('127.0.0.1', inputs['unlisted']), ('192.0.2.1', 80)):\n"
        "    try: socket.create_connection(at, 1); output.append('reached')\n"
        "    except OSError as e: output.append('refused')\n"
    )
    listed = SandboxPolicy(network=(f"localhost.localdomain:{port}",))
    with pytest.MonkeyPatch.context() as patch:
        resolved = asyncio.get_running_loop().getaddrinfo

        async def getaddrinfo(host: str, *given: Any, **options: Any) -> Any:
            return await resolved("127.0.0.1", *given, **options)

        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        async with server, Sandbox(listed) as made:
            ran = await made.run_python(code, {"listed": port, "unlisted": unlisted})
    other.close()
    assert ran.value == ["got hi", "refused", "refused"], ran


async def test_what_cannot_be_held_is_refused_before_anything_runs() -> None:
    async with Sandbox() as closed:
        pass
    with pytest.raises(SandboxError) as caught:
        await closed.run(["true"])
    assert caught.value.code == "sandbox.closed"
    if MACHINE.no_wasm:
        pytest.skip(MACHINE.no_wasm)
    listed = SandboxPolicy(network=("example.com:443",))
    with pytest.raises(SandboxError) as caught:
        await Sandbox(listed, back_end="wasm").open()
    assert (caught.value.code, caught.value.field) == ("sandbox.not_enforced", "network")


async def test_an_interpreter_that_was_replaced_is_not_run(tmp_path: Path) -> None:
    """A cache that others may write is not used either: its module is machine code."""
    from stageflow.stages.work.sandbox import wasm

    if MACHINE.no_wasm:
        pytest.skip(MACHINE.no_wasm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wasm, "SHA256", "0" * 64)
        with pytest.raises(SandboxError) as caught:
            wasm.loaded(tmp_path)
    assert caught.value.code == "sandbox.component"


async def test_stages_run_programs_and_commands() -> None:
    skip_unless_able("process")
    ran = work(python_tool(), name="ran")
    listed = work(command_tool(allowed=["echo"]), name="listed")
    desk = Pipeline(
        "desk",
        [ran, listed],
        inputs={"code": str, "command": list[str]},
        outputs={"ran": ran, "listed": listed},
        deps={"sandbox": Sandbox},
    )
    async with Runtime(deps={"sandbox": lambda: Sandbox(SMALL)}) as runtime:
        bound = desk.using(runtime=runtime)
        run = await bound.run(code="print(6 * 7)", command=["echo", "hi"])
        refused = await bound.run(code="", command=["rm", "-r", "/"])
    assert run.status == "ok"
    assert (run[ran].stdout, run[listed].stdout) == (b"42\n", b"hi\n")
    assert refused.status == "failed" and refused.failure is not None
    assert "sandbox.command" in str(refused.failure)
