"""Attempts to reach somebody: by TCP, UDP, DNS, and sockets of this machine.

`inputs`: `tcp` and `udp` ports of listeners on the host's loopback, of which the first answers
with the token; `door` a stream and `box` a datagram socket in the folder that may be read, as a
container engine's is often mounted; `abstract` the name of a stream socket that has no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_TCP: Final = 'import socket\nat = ("127.0.0.1", inputs["tcp"])\n'
_UDP: Final = 'import socket\nat = ("127.0.0.1", inputs["udp"])\n'
_UNIX: Final = "import socket\n"
_NUMBERS: Final = (
    "import ctypes, os, struct, socket\n"
    "C = ctypes.CDLL(None, use_errno=True)\n"
    "arm = os.uname().machine == 'aarch64'\n"
    "SOCKET, CONNECT, SENDTO = (198, 203, 206) if arm else (41, 42, 44)\n"
)

DOORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # The socket in a folder that is granted: a read-only mount does not keep anybody from it.
        "door_stream": _UNIX
        + "s = socket.socket(socket.AF_UNIX); s.connect(inputs['door']); print(s.recv(99))",
        "door_datagram": _UNIX + "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', inputs['box'])",
        "door_asyncio": "import asyncio\n"
        "async def go():\n"
        "    read, _ = await asyncio.open_unix_connection(inputs['door'])\n"
        "    print(await read.read(99))\n"
        "asyncio.run(go())",
        "door_other_name": "import os, socket\n"
        "os.chdir(os.path.dirname(inputs['door']))\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(os.path.basename(inputs['door']))\n"
        "print(s.recv(99))",
        "door_by_link": "import os, socket\n"
        "os.symlink(inputs['door'], inputs['drop'] + '/door')\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(inputs['drop'] + '/door'); print(s.recv(99))",
        "door_nonblocking": _UNIX + "s = socket.socket(socket.AF_UNIX); s.setblocking(False)\n"
        "s.connect_ex(inputs['door']); s.setblocking(True); print(s.recv(99))",
        "door_libc": _NUMBERS + "s = C.syscall(SOCKET, 1, 1, 0)\n"
        "name = struct.pack('H108s', 1, inputs['door'].encode())\n"
        "assert C.syscall(CONNECT, s, name, len(name)) == 0\n"
        "print(os.read(s, 99))",
        "door_log": "import logging.handlers\n"
        "h = logging.handlers.SysLogHandler(inputs['box'])\n"
        "h.emit(logging.makeLogRecord({'msg': 'x'}))",
        "door_datagram_connected": _UNIX + "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(inputs['box']); s.send(b'x')",
        "door_client": "from multiprocessing.connection import SocketClient\n"
        "c = SocketClient(inputs['door']); print(c._recv(9).getvalue())",
    }
)

NETWORK: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tcp_connect": _TCP + "print(socket.create_connection(at).recv(99))",
        "tcp_connect_ex": _TCP + "s = socket.socket(); s.connect_ex(at); print(s.recv(99))",
        "tcp_mapped": "import socket\n"
        "s = socket.socket(socket.AF_INET6); s.connect(('::ffff:127.0.0.1', inputs['tcp']))\n"
        "print(s.recv(99))",
        "tcp_asyncio": "import asyncio\n"
        "async def go():\n"
        "    read, _ = await asyncio.open_connection('127.0.0.1', inputs['tcp'])\n"
        "    print(await read.read(99))\n"
        "asyncio.run(go())",
        "tcp_http": "import http.client\n"
        "c = http.client.HTTPConnection('127.0.0.1', inputs['tcp'], timeout=2)\n"
        "try: c.request('GET', '/'); c.getresponse()\n"
        "except http.client.HTTPException as e: print(e)",
        "tcp_urllib": "import urllib.request\n"
        "try: urllib.request.urlopen(f\"http://127.0.0.1:{inputs['tcp']}/\", timeout=2)\n"
        "except Exception as e: print(e)",
        "tcp_bash": "import subprocess\n"
        "print(subprocess.run(['bash', '-c', f\"head -c 30 < /dev/tcp/127.0.0.1/{inputs['tcp']}\"],"
        " capture_output=True).stdout)",
        "tcp_perl": "import subprocess\n"
        "print(subprocess.run(['perl', '-MIO::Socket::INET', '-e',"
        " f\"print IO::Socket::INET->new('127.0.0.1:{inputs['tcp']}')->getline\"],"
        " capture_output=True).stdout)",
        "tcp_libc": _NUMBERS + "s = C.syscall(SOCKET, 2, 1, 0)\n"
        "name = struct.pack('!BBH4s8x', 2, 0, inputs['tcp'], socket.inet_aton('127.0.0.1'))\n"
        "name = struct.pack('=H', 2) + name[2:]\n"
        "assert C.syscall(CONNECT, s, name, 16) == 0\n"
        "print(os.read(s, 99))",
        "tcp_log": "import logging.handlers\n"
        "h = logging.handlers.SocketHandler('127.0.0.1', inputs['tcp'])\n"
        "print(h.makeSocket().recv(99))",
        "tcp_fast_open": _TCP + "s = socket.socket(); s.sendto(b'x', 0x20000000, at)\n"
        "print(s.recv(99))",
        "udp_send": _UDP + "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', at)",
        "udp_connect": _UDP
        + "s = socket.socket(type=socket.SOCK_DGRAM); s.connect(at); s.send(b'x')",
        "udp_mapped": "import socket\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('::ffff:127.0.0.1', inputs['udp']))",
        "udp_message": _UDP + "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, at)",
        "udp_libc": _NUMBERS + "s = C.syscall(SOCKET, 2, 2, 0)\n"
        "name = struct.pack('=H', 2) + struct.pack('!H4s8x', inputs['udp'], b'\\x7f\\0\\0\\x01')\n"
        "assert C.syscall(SENDTO, s, b'x', 1, 0, name, 16) == 1",
        "udp_bash": "import subprocess\n"
        "subprocess.run(['bash', '-c', f\"echo x > /dev/udp/127.0.0.1/{inputs['udp']}\"])",
        "dns_query": _UDP + "s = socket.socket(type=socket.SOCK_DGRAM)\n"
        "name = b'\\x06secret\\x07example\\x00'\n"
        "s.sendto(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + name + b'\\0\\1\\0\\1', at)",
        "dns_query_asyncio": "import asyncio\n"
        "async def go():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    sending, _ = await loop.create_datagram_endpoint(\n"
        "        asyncio.DatagramProtocol, remote_addr=('127.0.0.1', inputs['udp']))\n"
        "    sending.sendto(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1x\\0\\0\\1\\0\\1')\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(go())",
        "abstract_connect": _UNIX
        + "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + inputs['abstract'])\n"
        "print(s.recv(99))",
        "abstract_libc": _NUMBERS + "s = C.syscall(SOCKET, 1, 1, 0)\n"
        "name = struct.pack('=H', 1) + b'\\0' + inputs['abstract'].encode()\n"
        "assert C.syscall(CONNECT, s, name, len(name)) == 0\n"
        "print(os.read(s, 99))",
        "raw_socket": "import socket\n"
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); print('GAINED')",
        "packet_socket": "import socket\n"
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('GAINED')",
        "netlink": "import socket\n"
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0)); print('GAINED')",
        "pair_to_box": "import socket\n"
        "a, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendto(b'x', inputs['box'])",
    }
)
