"""What made a result: library versions, the machine."""

from __future__ import annotations

import os
import platform
from typing import Any


def library_versions() -> dict[str, str]:
    """Return the versions of what decides a head's numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "skops")}


def machine() -> dict[str, Any]:
    """Return the machine that seconds were measured on."""
    return {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
