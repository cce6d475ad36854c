"""200 ordinary programs of the kind that agents write, each with the value it must compute.

Twenty kinds; the values come from the seed and are computed here by other means than inside.
"""

from __future__ import annotations

import calendar
import csv
import hashlib
import io
import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Harmless:
    """A program, its inputs, and the `output` it must leave."""

    kind: str
    code: str
    inputs: dict[str, Any]
    value: Any


def programs(count: int, rng: random.Random) -> list[Harmless]:
    """`count` programs, each kind in turn."""
    return [_KINDS[at % len(_KINDS)](rng) for at in range(count)]


def _files(rng: random.Random) -> Harmless:
    lines = [f"line {rng.randrange(1000)}" for _ in range(20)]
    code = (
        "import os, tempfile\n"
        "with tempfile.TemporaryDirectory() as top:\n"
        "    os.mkdir(top + '/a')\n"
        "    with open(top + '/a/part', 'w') as file: file.write('\\n'.join(inputs['lines']))\n"
        "    os.rename(top + '/a/part', top + '/whole')\n"
        "    with open(top + '/whole') as file: output = sorted(file.read().split('\\n'))\n"
        "output.append(os.path.exists(top))\n"
    )
    return Harmless("files", code, {"lines": lines}, [*sorted(lines), False])


def _numbers(rng: random.Random) -> Harmless:
    given = [rng.uniform(-1e6, 1e6) for _ in range(200)]
    code = "import math\noutput = [math.fsum(inputs['x']), max(inputs['x']), min(inputs['x'])]"
    return Harmless("numbers", code, {"x": given}, [math.fsum(given), max(given), min(given)])


def _words(rng: random.Random) -> Harmless:
    text = " ".join(rng.choice(("tide", "moon", "wind", "sea")) for _ in range(300))
    code = (
        "import re\nfrom collections import Counter\n"
        "output = dict(sorted(Counter(re.findall(r'\\w+', inputs['text'])).items()))"
    )
    return Harmless("words", code, {"text": text}, dict(sorted(Counter(text.split()).items())))


def _table(rng: random.Random) -> Harmless:
    numbers = [rng.randrange(100) for _ in range(50)]
    held = io.StringIO()
    csv.writer(held).writerows([f"n{at}", number] for at, number in enumerate(numbers))
    code = (
        "import csv, io\n"
        "rows = list(csv.reader(io.StringIO(inputs['text'])))\n"
        "output = sum(int(row[1]) for row in rows)"
    )
    return Harmless("table", code, {"text": held.getvalue()}, sum(numbers))


def _digest(rng: random.Random) -> Harmless:
    text = str(rng.random())
    code = "import hashlib\noutput = hashlib.sha256(inputs['text'].encode()).hexdigest()"
    return Harmless("digest", code, {"text": text}, hashlib.sha256(text.encode()).hexdigest())


def _primes(rng: random.Random) -> Harmless:
    top = rng.randrange(500, 3000)
    code = (
        "sieve = bytearray([1]) * (inputs['top'] + 1); sieve[:2] = b'\\0\\0'\n"
        "for n in range(2, int(inputs['top'] ** 0.5) + 1):\n"
        "    if sieve[n]: sieve[n * n :: n] = bytes(len(sieve[n * n :: n]))\n"
        "output = sum(sieve)"
    )
    count = sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(2, top + 1))
    return Harmless("primes", code, {"top": top}, count)


def _dates(rng: random.Random) -> Harmless:
    year, month = rng.randrange(1950, 2050), rng.randrange(1, 13)
    code = (
        "import datetime\nfirst = datetime.date(inputs['y'], inputs['m'], 1)\n"
        "after = (first + datetime.timedelta(days=31)).replace(day=1)\n"
        "output = [(after - first).days, first.weekday()]"
    )
    weekday, days = calendar.monthrange(year, month)
    return Harmless("dates", code, {"y": year, "m": month}, [days, weekday])


def _statistics(rng: random.Random) -> Harmless:
    given = [rng.randrange(1000) for _ in range(101)]
    code = "import statistics as s\noutput = [s.median(inputs['x']), s.pvariance(inputs['x'])]"
    value = [statistics.median(given), statistics.pvariance(given)]
    return Harmless("statistics", code, {"x": given}, value)


def _classes(rng: random.Random) -> Harmless:
    given = [rng.randrange(1, 100) for _ in range(30)]
    code = (
        "from dataclasses import dataclass\n"
        "@dataclass(order=True)\n"
        "class Item:\n"
        "    size: int\n"
        "    def doubled(self): return Item(self.size * 2)\n"
        "output = [i.doubled().size for i in sorted(Item(x) for x in inputs['x'])]"
    )
    return Harmless("classes", code, {"x": given}, [2 * x for x in sorted(given)])


def _nested(rng: random.Random) -> Harmless:
    top, deep = [rng.randrange(9) for _ in range(5)], rng.randrange(9)
    given = {"a": top, "b": {"c": [1, {"d": deep}]}}
    code = (
        "def total(x):\n"
        "    if isinstance(x, dict): return sum(map(total, x.values()))\n"
        "    if isinstance(x, list): return sum(map(total, x))\n"
        "    return x\n"
        "output = total(inputs)"
    )
    return Harmless("nested", code, given, sum(top) + 1 + deep)


def _errors(rng: random.Random) -> Harmless:
    given = [rng.choice(["1", "x", "7", ""]) for _ in range(30)]
    code = (
        "output = 0\n"
        "for text in inputs['x']:\n"
        "    try: output += int(text)\n"
        "    except ValueError: output -= 1\n"
    )
    value = sum(int(text) if text.isdecimal() else -1 for text in given)
    return Harmless("errors", code, {"x": given}, value)


def _recursion(rng: random.Random) -> Harmless:
    top = rng.randrange(100, 300)
    code = (
        "from functools import cache\n"
        "@cache\n"
        "def f(n): return n if n < 2 else f(n - 1) + f(n - 2)\n"
        "output = str(f(inputs['n']))"
    )
    a, b = 0, 1
    for _ in range(top):
        a, b = b, a + b
    return Harmless("recursion", code, {"n": top}, str(a))


def _generators(rng: random.Random) -> Harmless:
    top = rng.randrange(1000, 5000)
    code = (
        "import itertools\n"
        "odd = (n for n in itertools.count(1, 2) if n % 3)\n"
        "output = sum(itertools.takewhile(lambda n: n < inputs['n'], odd))"
    )
    return Harmless("generators", code, {"n": top}, sum(n for n in range(1, top, 2) if n % 3))


def _documents(rng: random.Random) -> Harmless:
    data = {"items": [{"id": at, "on": rng.random() < 0.5} for at in range(20)]}
    code = (
        "import json\ndata = json.loads(inputs['text'])\n"
        "output = [item['id'] for item in data['items'] if item['on']]"
    )
    value = [item["id"] for item in data["items"] if item["on"]]
    return Harmless("documents", code, {"text": json.dumps(data)}, value)


def _matrices(rng: random.Random) -> Harmless:
    a = [[rng.randrange(9) for _ in range(8)] for _ in range(8)]
    code = (
        "a = inputs['a']\n"
        "output = [[sum(x * y for x, y in zip(row, col)) for col in zip(*a)] for row in a]"
    )
    value = [[sum(a[i][k] * a[k][j] for k in range(8)) for j in range(8)] for i in range(8)]
    return Harmless("matrices", code, {"a": a}, value)


def _decimals(rng: random.Random) -> Harmless:
    cents = [rng.randrange(10_000) for _ in range(40)]
    code = (
        "from decimal import Decimal\n"
        "output = str(sum((Decimal(c) / 100 for c in inputs['c']), Decimal(0)).quantize("
        "Decimal('0.01')))"
    )
    total = sum(cents)
    return Harmless("decimals", code, {"c": cents}, f"{total // 100}.{total % 100:02d}")


def _paths(rng: random.Random) -> Harmless:
    name = f"f{rng.randrange(1000)}"
    code = (
        "import tempfile\nfrom pathlib import Path\n"
        "top = Path(tempfile.gettempdir()) / inputs['name']; (top / 'a').mkdir(parents=True)\n"
        "(top / 'a' / 'x.txt').write_text('1'); (top / 'y.txt').write_text('22')\n"
        "output = sum(p.stat().st_size for p in top.rglob('*.txt'))"
    )
    return Harmless("paths", code, {"name": name}, 3)


def _heaps(rng: random.Random) -> Harmless:
    given = [rng.randrange(100) for _ in range(20)]
    code = (
        "import heapq\n"
        "heap = list(inputs['x']); heapq.heapify(heap)\n"
        "output = [heapq.heappop(heap) for _ in range(len(heap))]"
    )
    return Harmless("heaps", code, {"x": given}, sorted(given))


def _packed(rng: random.Random) -> Harmless:
    text = "".join(rng.choice("abc") for _ in range(2000))
    code = (
        "import base64, zlib\nkept = zlib.compress(inputs['text'].encode())\n"
        "output = [len(kept) < 2000, zlib.decompress(base64.b64decode(base64.b64encode(kept)))"
        ".decode() == inputs['text']]"
    )
    return Harmless("packed", code, {"text": text}, [True, True])


def _printed(rng: random.Random) -> Harmless:
    count = rng.randrange(1, 200)
    code = "for n in range(inputs['n']): print('row', n)\noutput = inputs['n']"
    return Harmless("printed", code, {"n": count}, count)


_KINDS: Final[tuple[Callable[[random.Random], Harmless], ...]] = (
    _files,
    _numbers,
    _words,
    _table,
    _digest,
    _primes,
    _dates,
    _statistics,
    _classes,
    _nested,
    _errors,
    _recursion,
    _generators,
    _documents,
    _matrices,
    _decimals,
    _paths,
    _heaps,
    _packed,
    _printed,
)
