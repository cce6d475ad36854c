"""What an event loop offers that a simulation cannot: each a named error with its mend."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from stageflow.model.errors import SimulationError

_FIXES = {
    "sim.thread": "run the function inline in a task, or give the runtime a simulated engine",
    "sim.socket": "hand the code a client that talks through queues or a simulated network",
    "sim.process": "run the work as a task of the same simulation",
    "sim.sleep": "await asyncio.sleep(...), which takes virtual time",
    "sim.signal": "call the handler from a task, or cancel the task that the signal would end",
}


def refusal(code: str, what: str) -> SimulationError:
    """The error for `what` (the call that was made), ready to raise."""
    kind = code.removeprefix("sim.")
    return SimulationError(
        code,
        f"{what} needs a real {kind}, which a simulation does not have",
        got=what,
        fix=_FIXES[code],
    )


def _no_socket(name: str) -> NoReturn:
    raise refusal("sim.socket", f"loop.{name}()")


class NoOutsideWorld(asyncio.AbstractEventLoop):
    """An event loop without sockets, pipes, child processes, signals and threads."""

    def add_reader(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        _no_socket("add_reader")

    def remove_reader(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("remove_reader")

    def add_writer(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        _no_socket("add_writer")

    def remove_writer(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("remove_writer")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("getaddrinfo")

    async def getnameinfo(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("getnameinfo")

    async def create_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("create_connection")

    async def create_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("create_server")

    async def sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sendfile")

    async def start_tls(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("start_tls")

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("create_unix_connection")

    async def create_unix_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("create_unix_server")

    async def connect_accepted_socket(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("connect_accepted_socket")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("create_datagram_endpoint")

    async def connect_read_pipe(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("connect_read_pipe")

    async def connect_write_pipe(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("connect_write_pipe")

    async def sock_recv(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_recv")

    async def sock_recv_into(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_recv_into")

    async def sock_recvfrom(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_recvfrom")

    async def sock_recvfrom_into(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_recvfrom_into")

    async def sock_sendall(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_sendall")

    async def sock_sendto(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_sendto")

    async def sock_connect(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_connect")

    async def sock_accept(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_accept")

    async def sock_sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        _no_socket("sock_sendfile")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise refusal("sim.process", "loop.subprocess_shell()")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise refusal("sim.process", "loop.subprocess_exec()")

    def add_signal_handler(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise refusal("sim.signal", "loop.add_signal_handler()")

    def remove_signal_handler(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise refusal("sim.signal", "loop.remove_signal_handler()")

    def run_in_executor(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise refusal("sim.thread", "loop.run_in_executor()")

    def set_default_executor(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise refusal("sim.thread", "loop.set_default_executor()")

    async def shutdown_default_executor(self, *args: Any) -> None:
        """Nothing to do: there is never an executor."""
