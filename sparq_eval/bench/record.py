"""Where benchmark rows came from: machine, versions, commit, command, and what the machine reaches at most."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from sparq_eval.bench.timing import copy_bandwidth, matmul_rate
from sparq_eval.evaluate.provenance import commit, device_name
from sparq_eval.results.bench import Bench
from sparq_eval.results.bench_rows import BenchRow


def bench_of(kind: str, rows: Sequence[BenchRow], device: torch.device, dtype: torch.dtype) -> Bench:
    """The record of rows that were timed in this process. Measures the machine's ceilings."""
    cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if cuda else psutil.virtual_memory().total
    return Bench(
        kind=kind,
        machine={
            "device": device_name(device),
            "type": device.type,
            "memory": memory,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        },
        versions={"python": platform.python_version(), "torch": torch.__version__, **versions()},
        git=commit() or "",
        command=" ".join(["python -m sparq_eval.bench", *sys.argv[1:]]),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        ceilings={"copy": copy_bandwidth(device), "matmul": matmul_rate(device, dtype)},
        rows=tuple(rows),
    )


def versions() -> dict[str, str]:
    found = {}
    for name in ("triton", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
