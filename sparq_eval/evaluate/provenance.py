"""Where a measurement came from: versions, commit, device, command."""

import os
import platform
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sparq_eval.hf.placement import Placement

PACKAGES = ("sparq_eval", "torch", "transformers", "lm_eval")


def versions() -> dict[str, str]:
    """Versions of what an answer depends on. torch without its build: that is the device's."""
    return {name: version(name).split("+")[0] for name in PACKAGES}


def provenance(placement: Placement) -> dict[str, Any]:
    """The part of a record's history that is known when a run starts."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_names(placement.devices),
        "placement": str(placement),
        "threads": torch.get_num_threads(),
    }


def command() -> str:
    name = "python -m sparq_eval" if Path(sys.argv[0]).name in ("__main__.py", "sparq_eval") else Path(sys.argv[0]).name
    return " ".join([name, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of the checkout that this code runs from, "+changes" where it was edited since; None if installed."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        state = subprocess.run(
            [*git, "status", "--porcelain", "--", str(folder)], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+changes" if state.stdout.strip() else "")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{model}, {os.cpu_count()} cores"


def device_names(devices: Sequence[torch.device]) -> str:
    """Each kind of device once, with how many there are; copies on one CPU count as one."""
    names = Counter(device_name(device) for device in dict.fromkeys(devices))
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())


def peak_memory(devices: Sequence[torch.device]) -> int:
    """Most bytes held at a time: on CUDA devices by torch, else by this process since it began."""
    if devices[0].type == "cuda":
        return sum(torch.cuda.max_memory_allocated(device) for device in devices)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
