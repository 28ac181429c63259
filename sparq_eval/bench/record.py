"""The record of a bench as it grows, and where its rows came from: machine, versions, commit, command, ceilings."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from sparq_eval.bench.timing import copy_bandwidth, matmul_rate
from sparq_eval.evaluate.provenance import commit, device_name
from sparq_eval.results.bench import Bench
from sparq_eval.results.bench_rows import BenchRow

UNFINISHED = "not finished when this was written"


class Growing:
    """A record that lies in its folder, whole, from the first row on: however the process ends, no row is lost.

    path: where it is; None before the first row.
    """

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.path: Path | None = None

    def add(self, row: BenchRow) -> None:
        self.bench = replace(self.bench, rows=(*self.bench.rows, row))
        self.write(UNFINISHED)

    def write(self, note: str) -> Path:
        """In place of what was written before: a name follows from the content."""
        self.bench = replace(self.bench, note=note, when=now())
        before, self.path = self.path, self.bench.save(self.folder)
        if before not in (None, self.path):
            before.unlink(missing_ok=True)
        return self.path


def begun(kind: str, device: torch.device, dtype: torch.dtype) -> Bench:
    """A record without rows of what this process is about to time. Measures the machine's ceilings."""
    cuda = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if cuda else psutil.virtual_memory().total
    ceilings: dict[str, float | None] = {"copy": copy_bandwidth(device), "matmul": matmul_rate(device, dtype)}
    if cuda:
        torch.cuda.empty_cache()
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
        command=" ".join(["python -m sparq_eval.bench", *asked(sys.argv[1:])]),
        when=now(),
        ceilings=ceilings,
        rows=(),
    )


def asked(words: Sequence[str]) -> list[str]:
    """A command's words without --out: where a record goes is no part of what was timed."""
    kept, skip = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif len(name) > 2 and "--out".startswith(name):
            skip = not equals
        else:
            kept.append(word)
    return kept


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of the packages beside torch that may have been timed, as far as they are installed."""
    found = {}
    for name in ("triton", "transformers", "flashinfer-python"):
        try:
            found[name.removesuffix("-python")] = version(name)
        except PackageNotFoundError:
            continue
    return found
