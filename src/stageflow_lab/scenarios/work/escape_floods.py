"""Attempts to take more than was given: memory, processor, time, tasks, files, disk, output.

Each goes to about twice the cap and then stops by itself, saying GOT and a figure as it goes: what
it says last is what it got. `inputs`: `caps`, the policy's, in its units.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_GOT: Final = "def got(n): print('GOT', n, flush=True)\ncaps = inputs['caps']\n"
_MIB: Final = "MIB = 1 << 20\ntop = 2 * caps['memory'] // MIB\n"
_BURN: Final = (
    "import time\n"
    "first = time.monotonic()\n"
    "tells = time.process_time() < 60\n"  # the clock of a WASI guest tells something else
    "def used(): return time.process_time() if tells else time.monotonic() - first\n"
    "def burn(until):\n"
    "    told = 0.0\n"
    "    while (now := used()) < until:\n"
    "        if tells and now - told > 0.01: told = now; got(now)\n"
    "    if tells: got(used())\n"
)

_MEMORY: Final = {
    "memory_list": _GOT + _MIB + "kept = []\n"
    "for n in range(1, top + 1): kept.append(bytearray(b'x') * MIB); got(n * MIB)",
    "memory_doubling": _GOT + _MIB + "kept = bytearray(b'x') * MIB\n"
    "while len(kept) < top * MIB: kept = kept + kept; got(len(kept))",
    "memory_mmap": _GOT + _MIB + "import mmap\nkept = []\n"
    "for n in range(1, top + 1):\n"
    "    kept.append(mmap.mmap(-1, MIB)); kept[-1][:] = b'x' * MIB; got(n * MIB)",
    "memory_children": _GOT
    + "import os, select, time\nread, write = os.pipe(); half = caps['memory'] // 2\n"
    "for n in range(1, 5):\n"
    "    if os.fork() == 0:\n"
    "        kept = bytearray(b'x') * half; os.write(write, b'x'); time.sleep(1); os._exit(0)\n"
    "    if not select.select([read], [], [], 1)[0]: break\n"
    "    os.read(read, 1); got(n * half)",
    "memory_scratch": _GOT + _MIB + "kept = [bytearray(b'x') * (caps['memory'] - 8 * MIB)]\n"
    "with open(inputs['tmp'] + '/m', 'wb', 0) as f:\n"
    "    for n in range(1, 17):\n"
    "        f.write(b'x' * MIB); got(caps['memory'] + (n - 8) * MIB)\n"
    "import os; os.unlink(inputs['tmp'] + '/m')",
    "memory_memfd": _GOT + _MIB + "import os\nfds = []\n"
    "for n in range(1, top + 1):\n"
    "    if n % 4 == 1: fds.append(os.memfd_create('m'))\n"
    "    os.write(fds[-1], b'x' * MIB); got(n * MIB)",
}
_PROCESSOR: Final = {
    "cpu_loop": _GOT + _BURN + "burn(2 * caps['cpu'])",
    "cpu_deaf": _GOT + _BURN + "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
    "burn(2 * caps['cpu'])",
    "cpu_children": _GOT + _BURN + "import os\n"
    "for n in range(4):\n"
    "    if os.fork() == 0:\n"
    "        while time.process_time() < caps['cpu'] / 2: pass\n"
    "        os._exit(0)\n"
    "    os.waitpid(-1, 0); got((n + 1) * caps['cpu'] / 2)",
    "cpu_pattern": _GOT + _BURN + "import re\n"
    "for n in range(14, 40):\n"
    "    re.match('(a+)+$', 'a' * n + 'b'); tells and got(used())\n"
    "    if used() > 2 * caps['cpu']: break",
}
_TIME: Final = {
    "wall_sleep": _GOT + "import time\nfirst = time.monotonic()\n"
    "while time.monotonic() - first < 2 * caps['wall']:\n"
    "    time.sleep(0.02); got(time.monotonic() - first)",
    "wall_deaf": _GOT + "import time, signal\n"
    "for n in range(1, 32):\n"
    "    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\n"
    "first = time.monotonic()\n"
    "while time.monotonic() - first < 2 * caps['wall']:\n"
    "    time.sleep(0.02); got(time.monotonic() - first)",
}
_TASKS: Final = {
    "tasks_forks": _GOT + "import os, time\n"
    "for n in range(2, 3 * caps['tasks']):\n"
    "    if os.fork() == 0: time.sleep(1); os._exit(0)\n"
    "    got(n)",
    "tasks_threads": _GOT + "import threading, time\n"
    "for n in range(2, 3 * caps['tasks']):\n"
    "    threading.Thread(target=time.sleep, args=(0.5,)).start(); got(n)",
    "tasks_doubling": _GOT + "import os, time\n"
    "first = os.getpid(); n = 1\n"
    "read, write = os.pipe()\n"
    "for _ in range(5):\n"
    "    try: child = os.fork()\n"
    "    except OSError: break\n"
    "    if child == 0: os.write(write, b'x')\n"
    "time.sleep(0.3)\n"
    "if os.getpid() == first: got(1 + len(os.read(read, 99)))\n"
    "time.sleep(0.3)\n"
    "if os.getpid() != first: os._exit(0)",
    "tasks_spawns": _GOT + "import subprocess\nkept = []\n"
    "for n in range(2, 3 * caps['tasks']):\n"
    "    kept.append(subprocess.Popen(['sleep', '1'])); got(n)",
}
_DISK: Final = {
    "scratch_file": _GOT + "with open(inputs['tmp'] + '/f0', 'wb', 0) as f, "
    "open(inputs['tmp'] + '/f1', 'wb', 0) as g, open(inputs['tmp'] + '/f2', 'wb', 0) as h:\n"
    "    n = 0\n"
    "    while n < 2 * caps['scratch']:\n"
    "        n += (f, g, h)[n % 3].write(b'x' * 65537); got(n)\n"
    "import os\nfor n in range(3): os.unlink(inputs['tmp'] + f'/f{n}')",
    "file_size": _GOT + "with open(inputs['drop'] + '/large', 'wb', 0) as f:\n"
    "    n = 0\n"
    "    while n < 2 * caps['file']:\n"
    "        n += f.write(b'x' * 65536); got(n)\n"
    "import os; os.unlink(inputs['drop'] + '/large')",
}
_OUTPUT: Final = {
    "output_stdout": "import sys\nfor _ in range(2 * inputs['caps']['output'] // 64):\n"
    "    sys.stdout.write('x' * 64)",
    "output_stderr": "import sys\nfor _ in range(2 * inputs['caps']['output'] // 64):\n"
    "    sys.stderr.write('x' * 64)",
    "output_both": "import os\nfor n in range(2 * inputs['caps']['output'] // 4096):\n"
    "    os.write(1 + n % 2, b'x' * 4096)",
    "output_at_once": "print('x' * (2 * inputs['caps']['output']))",
    "output_child": "import subprocess\n"
    "subprocess.run(['head', '-c', str(2 * inputs['caps']['output']), '/dev/zero'])",
}

FLOODS: Final[Mapping[str, str]] = MappingProxyType(
    {**_MEMORY, **_PROCESSOR, **_TIME, **_TASKS, **_DISK, **_OUTPUT}
)

CAPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(_MEMORY, "memory"),
        **dict.fromkeys(_PROCESSOR, "cpu"),
        **dict.fromkeys(_TIME, "wall"),
        **dict.fromkeys(_TASKS, "tasks"),
        "scratch_file": "scratch",
        "file_size": "file",
        **dict.fromkeys(_OUTPUT, "output"),
        **dict.fromkeys(("many_files", "many_pipes", "raise_limit"), "files"),
    }
)
