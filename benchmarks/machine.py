"""What the numbers were measured on and with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dabdetr.measure import processor_name

PACKAGES = ("dabdetr", "transformers", "torch", "torchvision", "timm")


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores, system, versions, the commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        **{"capture_output": True, "text": True, "cwd": Path(__file__).parent, "check": False},
    )
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "versions": {"Python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
    }
