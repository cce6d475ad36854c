"""Attempts by the system: calls that no program needs, open descriptors, processes that stay.

A call that was answered is an escape from the policy by itself; the program says GAINED. Numbers
are those of x86_64 and of aarch64. `inputs`: `pid` a process of the host that holds the token;
`beat` a file in the folder that may be written, in which a process that stays is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_CALL: Final = (
    "import ctypes, os, struct\n"
    "C = ctypes.CDLL(None, use_errno=True)\n"
    "arm = os.uname().machine == 'aarch64'\n"
    "def call(x86, generic, *given):\n"
    "    given = [ctypes.c_long(g) if isinstance(g, int) else g for g in given]\n"
    "    return C.syscall(ctypes.c_long(generic if arm else x86), *given)\n"
)
_CLAIM: Final = "print('GAINED' if answer >= 0 else ctypes.get_errno())\n"


def _claimed(text: str) -> str:
    return _CALL + text + _CLAIM


SYSCALLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ptrace_host": _claimed("answer = call(101, 117, 0x4206, inputs['pid'], 0, 0)\n"),
        "read_memory": _CALL + "base = None\n"
        "for line in open(f\"/proc/{inputs['pid']}/maps\"):\n"
        "    if '[stack]' in line:\n"
        "        first, last = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "        kept = ctypes.create_string_buffer(last - first)\n"
        "        here = struct.pack('PN', ctypes.addressof(kept), last - first)\n"
        "        there = struct.pack('PN', first, last - first)\n"
        "        got = call(310, 270, inputs['pid'], here, 1, there, 1, 0)\n"
        "        import re; print(re.findall(rb'token-[0-9a-f]+', kept.raw[:max(got, 0)]))\n",
        "unshare_user": _claimed("answer = call(272, 97, 0x10000000)\n"),
        "unshare_mounts": _claimed("answer = call(272, 97, 0x10020000)\n"),
        "mount_tmpfs": _claimed(
            "call(272, 97, 0x10020000)\n"
            "answer = call(165, 40, b'none', b'/', None, 0x44000, None)\n"
            "answer = call(165, 40, b'tmpfs', b'/usr', b'tmpfs', 0, None)\n"
        ),
        "new_user_by_clone": _claimed(
            "answer = call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)\nif answer == 0: os._exit(0)\n"
        ),
        "new_user_by_clone3": _claimed(
            "given = struct.pack('=11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)\n"
            "answer = call(435, 435, given, 88)\nif answer == 0: os._exit(0)\n"
        ),
        "open_tree": _claimed("answer = call(428, 428, -100, b'/', 1)\n"),
        "file_system_open": _claimed("answer = call(430, 430, b'tmpfs', 0)\n"),
        "by_handle": _CALL
        + "handle = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0), 136)\n"
        "at = ctypes.c_int()\n"
        "call(303, 264, -100, inputs['secret'].encode(), handle, ctypes.byref(at), 0)\n"
        "root = os.open('/', 0)\n"
        "fd = call(304, 265, root, handle, 0)\n"
        "print(os.read(fd, 99))\n",
        "bpf_map": _claimed(
            "answer = call(321, 280, 0, struct.pack('=5I100x', 2, 4, 4, 1, 0), 72)\n"
        ),
        "perf_event": _claimed(
            "kept = bytearray(128); kept[0:8] = struct.pack('=II', 1, 128)\n"
            "answer = call(298, 241, bytes(kept), 0, -1, -1, 0)\n"
        ),
        "user_faults": _claimed("answer = call(323, 282, 1)\n"),
        "uring": _claimed("answer = call(425, 425, 4, ctypes.create_string_buffer(120))\n"),
        "uring_reads": _CALL + "kept = ctypes.create_string_buffer(120)\n"
        "ring = call(425, 425, 4, kept)\n"
        "assert ring >= 0, ctypes.get_errno()\n"
        "print('GAINED', open(inputs['secret']).read())\n",
        "key_ring": _claimed("answer = call(250, 219, 0, -3, 1, 0, 0)\n"),
        "key_add": _claimed("answer = call(248, 217, b'user', b'stageflow-lab', b'x', 1, -2)\n"),
        "set_namespace": _CALL + "fd = os.open(f\"/proc/{inputs['pid']}/ns/mnt\", 0)\n"
        "answer = call(308, 268, fd, 0)\n" + _CLAIM,
        "take_descriptor": _CALL + "fd = call(434, 434, inputs['pid'], 0)\n"
        "answer = call(438, 438, fd, 0, 0)\n" + _CLAIM,
        "kill_host": "import os\nos.kill(inputs['pid'], 0); print('GAINED')",
        "signal_all": "import os\nfor pid in range(2, 40000):\n"
        "    if pid == inputs['pid']:\n"
        "        os.kill(pid, 0); print('GAINED')",
        "change_root": _claimed(
            "call(272, 97, 0x10000000)\nanswer = call(161, 51, inputs['tmp'].encode())\n"
        ),
        "other_personality": _claimed("answer = call(135, 92, 0x0040000)\n"),
        "advise_host": _claimed("answer = call(312, 272, inputs['pid'], inputs['pid'], 1, 0, 0)\n"),
    }
)

_BEATS: Final = (
    "def beat():\n"
    "    import time\n"
    "    for _ in range(400):\n"
    "        with open(inputs['beat'], 'a') as f: f.write('x')\n"
    "        time.sleep(0.02)\n"
)
_NULL: Final = (
    "import os\n"
    "def quiet():\n"
    "    null = os.open('/dev/null', os.O_RDWR)\n"
    "    for fd in (0, 1, 2): os.dup2(null, fd)\n"
)
_CHILD: Final = (
    "import sys\n"
    'text = f"""\n'
    "import time\n"
    "for _ in range(400):\n"
    "    open({inputs['beat']!r}, 'a').write('x')\n"
    "    time.sleep(0.02)\n"
    '"""\n'
)

DAEMONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "double_fork": _BEATS + _NULL + "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: quiet(); beat()\n"
        "    os._exit(0)\n",
        "one_fork": _BEATS + _NULL + "if os.fork() == 0: quiet(); beat(); os._exit(0)\n",
        "new_session": _BEATS
        + _NULL
        + "if os.fork() == 0: os.setsid(); quiet(); beat(); os._exit(0)\n",
        "new_group": _BEATS
        + _NULL
        + "if os.fork() == 0: os.setpgid(0, 0); quiet(); beat(); os._exit(0)\n",
        "deaf": _BEATS + _NULL + "import signal\n"
        "if os.fork() == 0:\n"
        "    for n in (1, 2, 13, 15): signal.signal(n, signal.SIG_IGN)\n"
        "    os.setsid(); quiet(); beat(); os._exit(0)\n",
        "subprocess": _CHILD + "import subprocess\n"
        "subprocess.Popen([sys.executable, '-I', '-S', '-c', text], start_new_session=True,\n"
        "    stdin=-3, stdout=-3, stderr=-3)\nimport os; os._exit(0)\n",
        "nohup": _CHILD + "import subprocess, os\n"
        "open(inputs['tmp'] + '/d.py', 'w').write(text)\n"
        "subprocess.run(['sh', '-c', f\"nohup {sys.executable} -I -S {inputs['tmp']}/d.py"
        ' </dev/null >/dev/null 2>&1 &"])\n',
        "many_forks": _BEATS + _NULL + "def down(n):\n"
        "    if n == 0: quiet(); beat(); os._exit(0)\n"
        "    if os.fork() == 0: down(n - 1)\n"
        "    os._exit(0)\n"
        "down(4)\n",
        "while_killed": _BEATS + _NULL + "if os.fork() == 0:\n"
        "    os.setsid(); quiet(); beat(); os._exit(0)\n"
        "import signal; os.kill(os.getpid(), signal.SIGKILL)\n",
        "subreaper": _BEATS + _NULL + "import ctypes\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: os.setsid(); quiet(); beat()\n"
        "    os._exit(0)\n",
    }
)

DESCRIPTORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "inherited": "import os\n"
        "for fd in range(3, 64):\n"
        "    try: print(os.pread(fd, 99, 0))\n"
        "    except OSError: pass",
        "inherited_by_name": "import os\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    if int(fd) > 2:\n"
        "        try: print(os.pread(int(fd), 99, 0))\n"
        "        except OSError: pass",
        "many_files": "import os\nkept = []\n"
        "for n in range(3, 160):\n"
        "    kept.append(os.open(inputs['public'] + '/page.txt', 0)); print('GOT', n, flush=True)",
        "many_pipes": "import os\nn = 3\n"
        "while n < 160:\n"
        "    os.pipe(); n += 2; print('GOT', n, flush=True)",
        "raise_limit": "import resource, os\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (160, resource.getrlimit(7)[1]))\n"
        "for n in range(3, 160): os.dup(1); print('GOT', n, flush=True)",
    }
)
