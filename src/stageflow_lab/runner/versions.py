"""What a result was made with."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any


def versions() -> dict[str, Any]:
    """Versions of stageflow, Python, the platform, and every installed package imported here."""
    return {
        "stageflow": _version("stageflow") or "uninstalled",
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": _imported_packages(),
    }


def _imported_packages() -> dict[str, str]:
    top_level = {name.partition(".")[0] for name in sys.modules}
    owners = metadata.packages_distributions()
    names = {owner for module in top_level for owner in owners.get(module, ())}
    found = {name: _version(name) for name in sorted(names, key=str.lower)}
    return {name: version for name, version in found.items() if version is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
