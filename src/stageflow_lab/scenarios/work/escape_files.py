"""Attempts on the host's files: to read what was not granted, and to change what may be read only.

`inputs`: `secret` a file and `vault` its folder, not granted; `public` a folder to read, with
`page.txt`; `drop` a folder to write; `tmp` the scratch folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_CALLS: Final = """
import ctypes, os
C = ctypes.CDLL(None, use_errno=True)
"""

GRANTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "write_granted": 'open(inputs["public"] + "/page.txt", "w").write("x")',
        "append_granted": 'open(inputs["public"] + "/page.txt", "a").write("x")',
        "truncate_granted": 'import os; os.truncate(inputs["public"] + "/page.txt", 0)',
        "chmod_granted": 'import os; os.chmod(inputs["public"] + "/page.txt", 0)',
        "utime_granted": 'import os; os.utime(inputs["public"] + "/page.txt", (1, 1))',
        "unlink_granted": 'import os; os.unlink(inputs["public"] + "/page.txt")',
        "rename_granted": 'import os; os.rename(inputs["public"] + "/page.txt", '
        'inputs["public"] + "/other.txt")',
        "create_granted": 'open(inputs["public"] + "/more.txt", "x").write("x")',
        "mkdir_granted": 'import os; os.mkdir(inputs["public"] + "/more")',
        "link_granted": 'import os; os.link(inputs["public"] + "/page.txt", '
        'inputs["public"] + "/twin.txt")',
        "chmod_folder": 'import os; os.chmod(inputs["public"], 0o700)',
        "write_through_descriptor": "import os\n"
        'fd = os.open(inputs["public"] + "/page.txt", os.O_RDONLY)\n'
        'open(f"/proc/self/fd/{fd}", "w").write("x")',
    }
)

FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "read_open": 'print(open(inputs["secret"]).read())',
        "read_os": 'import os; print(os.read(os.open(inputs["secret"], 0), 999))',
        "write_vault": 'open(inputs["vault"] + "/planted", "w").write("x")',
        "chmod_secret": 'import os; os.chmod(inputs["secret"], 0o777)',
        "rmtree_vault": 'import shutil; shutil.rmtree(inputs["vault"])',
        "read_mmap": "import mmap, os\n"
        'fd = os.open(inputs["secret"], os.O_RDONLY)\n'
        "print(mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:])",
        "read_copy": "import shutil\n"
        'print(open(shutil.copy(inputs["secret"], inputs["tmp"] + "/copy")).read())',
        "read_linecache": 'import linecache; print(linecache.getlines(inputs["secret"]))',
        "read_names": 'import os; print(os.listdir(inputs["vault"]))',
        "read_walk": 'import os\nprint([f for _, _, f in os.walk(inputs["vault"])])',
        "read_dots": "import os\n"
        'up = "/.." * 12\n'
        'print(open(inputs["public"] + up + inputs["secret"]).read())',
        "read_sqlite": "import sqlite3\n"
        'made = sqlite3.connect("file:" + inputs["vault"] + "/notes.db?mode=ro", uri=True)\n'
        'print(made.execute("select * from notes").fetchall())',
        "read_cat": "import subprocess\n"
        'print(subprocess.run(["cat", inputs["secret"]], capture_output=True).stdout)',
        "read_tar": "import tarfile, io\n"
        "made = io.BytesIO()\n"
        'tarfile.open(fileobj=made, mode="w").add(inputs["secret"])\n'
        "print(made.getvalue())",
        "read_libc": _CALLS + 'fd = C.open(inputs["secret"].encode(), 0)\n'
        "kept = ctypes.create_string_buffer(999)\n"
        "C.read(fd, kept, 999); print(kept.value)",
        "read_walk_up": "import os\n"
        'at = os.open(inputs["public"], os.O_RDONLY)\n'
        "for _ in range(30):\n"
        '    at = os.open("..", os.O_RDONLY, dir_fd=at)\n'
        'fd = os.open(inputs["secret"].lstrip("/"), os.O_RDONLY, dir_fd=at)\n'
        "print(os.read(fd, 999))",
    }
)

SYMLINKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "link_and_read": "import os\n"
        'os.symlink(inputs["secret"], inputs["drop"] + "/a")\n'
        'print(open(inputs["drop"] + "/a").read())',
        "link_folder": "import os\n"
        'os.symlink(inputs["vault"], inputs["drop"] + "/b")\n'
        'print(os.listdir(inputs["drop"] + "/b"))',
        "link_relative": "import os\n"
        'os.symlink("../" * 20 + inputs["secret"][1:], inputs["drop"] + "/c")\n'
        'print(open(inputs["drop"] + "/c").read())',
        "link_hard": "import os\n"
        'os.link(inputs["secret"], inputs["drop"] + "/d")\n'
        'print(open(inputs["drop"] + "/d").read())',
        "link_chain": "import os\n"
        'os.symlink("/proc/self/root", inputs["drop"] + "/e")\n'
        'print(open(inputs["drop"] + "/e" + inputs["secret"]).read())',
        "swap_folder": "import os, threading\n"
        'at = inputs["drop"] + "/f"\n'
        "os.mkdir(at + 1 * 'x'); open(at + 'x/token.txt', 'w').close()\n"
        'os.symlink(inputs["vault"], at + "y")\n'
        "def swap():\n"
        "    for _ in range(300):\n"
        "        for name in ('x', 'y'):\n"
        "            os.symlink(at + name, at + 't'); os.rename(at + 't', at)\n"
        "swapping = threading.Thread(target=swap); swapping.start()\n"
        "for _ in range(3000):\n"
        "    try: found = open(at + '/token.txt').read()\n"
        "    except OSError: continue\n"
        "    if found: print(found); break\n"
        "swapping.join()",
        "swap_file": "import os\n"
        'at = inputs["drop"] + "/g"\n'
        "for _ in range(200):\n"
        "    open(at + 't', 'w').close(); os.rename(at + 't', at)\n"
        '    os.symlink(inputs["secret"], at + "s"); os.rename(at + "s", at)\n'
        "    found = open(at).read()\n"
        "    if found: print(found); break",
        "write_through_link": "import os\n"
        'os.symlink(inputs["vault"], inputs["drop"] + "/h")\n'
        'open(inputs["drop"] + "/h/planted", "w").write("x")',
    }
)

PROC: Final[Mapping[str, str]] = MappingProxyType(
    {
        "environ_of_host": "print(open(f\"/proc/{inputs['pid']}/environ\").read())",
        "environ_of_all": "import glob\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: print(open(path).read())\n"
        "    except OSError: pass",
        "command_of_host": "print(open(f\"/proc/{inputs['pid']}/cmdline\").read())",
        "commands_of_all": "import glob\n"
        "for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: print(open(path).read())\n"
        "    except OSError: pass",
        "root_of_host": 'print(open(f"/proc/{inputs[\'pid\']}/root" + inputs["secret"]).read())',
        "root_of_parent": "import os\n"
        'print(open(f"/proc/{os.getppid()}/root" + inputs["secret"]).read())',
        "folder_of_host": "import os\nprint(os.listdir(f\"/proc/{inputs['pid']}/cwd\"))",
        "memory_of_host": "import re\n"
        "maps = open(f\"/proc/{inputs['pid']}/maps\").read()\n"
        "memory = open(f\"/proc/{inputs['pid']}/mem\", 'rb', 0)\n"
        "for line in maps.splitlines():\n"
        "    if '[stack]' in line or '[heap]' in line:\n"
        "        first, last = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "        memory.seek(first); held = memory.read(last - first)\n"
        "        print(re.findall(rb'token-[0-9a-f]+', held))",
        "settings_of_kernel": "path = '/proc/sys/kernel/panic_on_warn'\n"
        "kept = open(path).read()\n"
        "open(path, 'w').write(kept); print('GAINED')",
        "adjust_host": "path = f\"/proc/{inputs['pid']}/oom_score_adj\"\n"
        "kept = open(path).read()\n"
        "open(path, 'w').write(kept); print('GAINED')",
    }
)
