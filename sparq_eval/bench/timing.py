"""Timing on a device or a CPU: medians of many repeats, launches recorded as a graph, buffers that no cache holds."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]
WARM_UP = 0.2  # seconds


@dataclass(frozen=True)
class Timed:
    """Seconds of one call: the median, the 10th and the 90th percentile, and how many were taken."""

    seconds: float
    low: float
    high: float
    repeats: int

    @staticmethod
    def of(seconds: Sequence[float]) -> "Timed":
        ordered = sorted(seconds)
        n = len(ordered)
        low, high = ordered[int(0.1 * (n - 1))], ordered[math.ceil(0.9 * (n - 1))]
        return Timed(statistics.median(ordered), low, high, n)


def time_calls(calls: Sequence[Work], device: torch.device, budget: float = 0.3, most: int = 200) -> Timed:
    """Time calls of one work on several sets of buffers, one after another, until `budget` seconds are spent.

    On a CUDA device the calls are recorded once as a graph and replayed, so that no side pays for launches; a sample is
    a replay over the number of calls. On a CPU a sample is one call.
    """
    if device.type != "cuda":
        return time_on_cpu(calls, budget, most)
    with torch.cuda.device(device):
        graph = record(calls)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        samples: list[float] = []
        # clocks that what came before has changed take a while to come back
        began = time.monotonic()
        while time.monotonic() - began < WARM_UP:
            graph.replay()
            torch.cuda.synchronize(device)
        began = time.monotonic()
        while len(samples) < 5 or (time.monotonic() - began < budget and len(samples) < most):
            before.record()
            graph.replay()
            after.record()
            after.synchronize()
            samples.append(before.elapsed_time(after) / 1000 / len(calls))
    return Timed.of(samples)


def record(calls: Sequence[Work]) -> torch.cuda.CUDAGraph:
    """The calls as one graph, after they ran as they are: compiling and planning are not to be recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def time_on_cpu(calls: Sequence[Work], budget: float, most: int) -> Timed:
    for call in calls:
        call()
    samples: list[float] = []
    began = time.monotonic()
    while len(samples) < 5 or (time.monotonic() - began < budget and len(samples) < most):
        call = calls[len(samples) % len(calls)]
        before = time.perf_counter()
        call()
        samples.append(time.perf_counter() - before)
    return Timed.of(samples)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy moves, those read and those written. Reading alone may be faster."""
    size = 2**31 if device.type == "cuda" else 2**28
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    # by a kernel: a device's copy engine is slower than its processors
    return 2 * size / time_calls([lambda: torch.mul(source, 1.0, out=target)], device).seconds


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product of random numbers."""
    n = 8192 if device.type == "cuda" else 1024
    x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / time_calls([lambda: x @ y], device).seconds
