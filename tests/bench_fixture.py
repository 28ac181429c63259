"""Benchmarks that were never run: times that follow from bytes, a start-up time and how much of the copy is reached."""

from collections.abc import Iterator
from typing import Any

from sparq_eval.results import AttentionRow, Bench, DecodeRow
from sparq_eval.results.bench_rows import BenchRow

GPU = {"device": "NVIDIA H100 80GB HBM3", "memory": 85_000_000_000, "threads": 16}
CPU = {"device": "AMD EPYC 7763 64-Core Processor", "memory": 512_000_000_000, "threads": 32}
CEILINGS: dict[str, dict[str, float | None]] = {
    GPU["device"]: {"copy": 3.0e12, "matmul": 7.0e14},
    CPU["device"]: {"copy": 1.5e11, "matmul": 2.0e12},
}
WHEN = "2024-01-31T12:00:00+00:00"
WIDTH = {"same": 1.0, "fp8": 0.5, "int8": 0.5, "none": 1.0}
# implementation, copy, start-up in seconds, share of the copy's bandwidth
SPARQ = (
    ("sparq triton", "same", 12e-6, 0.75),
    ("sparq triton", "none", 12e-6, 0.32),
    ("sparq triton", "int8", 14e-6, 0.66),
    ("sparq triton", "fp8", 13e-6, 0.7),
    ("sparq torch", "same", 90e-6, 0.22),
)
DENSE = (("sdpa flash", 8e-6, 0.6), ("sdpa cudnn", 10e-6, 0.9), ("flex", 30e-6, 0.7))


def bench(rows: tuple[BenchRow, ...] | list[BenchRow], machine: dict[str, Any] | None = None, **changes: Any) -> Bench:
    machine = machine or GPU
    kind = "decode" if isinstance(rows[0], DecodeRow) else "attention"
    plain = {"versions": {"torch": "2.9"}, "git": "0" * 40, "command": "bench", "when": WHEN}
    return Bench(kind, machine, **(plain | changes), ceilings=CEILINGS[machine["device"]], rows=tuple(rows))


def timed(seconds: float) -> dict[str, Any]:
    return {"seconds": seconds, "low": seconds * 0.97, "high": seconds * 1.05, "repeats": 200}


def attention(
    machine: dict[str, Any], dtype: str, H: int = 32, G: int = 1, D: int = 128, few: bool = False
) -> Iterator[BenchRow]:
    size = 4 if dtype == "float32" else 2
    copy, slow = CEILINGS[machine["device"]]["copy"], 1 if machine is GPU else 20
    assert copy
    for B in (4, 64) if few else (1, 4, 16, 64):
        for S in (2048, 4096, 65536) if few else (2048, 4096, 8192, 16384, 65536):
            sizes: dict[str, Any] = {"B": B, "H": H, "G": G, "D": D, "S": S, "dtype": dtype}
            whole = 2 * B * H * S * D * size
            for implementation, start, share in DENSE if machine is GPU else DENSE[:1]:
                row = sizes | {
                    "method": "dense",
                    "backend": implementation.split()[0],
                    "implementation": implementation,
                }
                row |= {"bytes": whole, "flops": 4 * B * H * G * S * D}
                if whole > 64e9:
                    yield AttentionRow(**row, note="needs 68.7 GB, of which 64.0 GB are free")
                else:
                    yield AttentionRow(**row, **timed(slow * start + whole / copy / share), error=3e-4)
            for implementation, kind, start, share in SPARQ if machine is GPU else SPARQ[-1:]:
                for r in (16, 32) if few else (16, 32, 64):
                    for k in (64, 128) if few else (64, 128, 256):
                        moved = B * H * (S * r * WIDTH[kind] + 2 * k * D) * size
                        row = sizes | {
                            "method": "sparq",
                            "implementation": implementation,
                            "copy": kind,
                            "r": r,
                            "k": k,
                        }
                        row |= {"backend": "torch" if "torch" in implementation else "kernel", "reallocate": True}
                        row |= {"bytes": moved, "flops": 2 * B * H * G * (S * r + 2 * k * D)}
                        if whole > 64e9:
                            yield AttentionRow(**row, note="needs 68.7 GB, of which 64.0 GB are free")
                        else:
                            yield AttentionRow(**row, **timed(slow * start + moved / copy / share), error=4e-4)
            if machine is GPU:
                moved = B * H * 2 * 512 * D * size
                row = sizes | {"method": "h2o", "implementation": "h2o triton", "backend": "kernel", "k": 512}
                yield AttentionRow(**row, bytes=moved, flops=2 * moved / size * G, **timed(15e-6 + moved / copy / 0.7))


def decode(machine: dict[str, Any], dtype: str) -> Iterator[BenchRow]:
    weights, per_position, copy = 13.5e9, 524_288.0, CEILINGS[machine["device"]]["copy"]
    assert copy
    for S in (4096, 8192, 16384, 32768, 65536, 131072):
        row: dict[str, Any] = {"model": "llama-2-7b", "B": 1, "S": S, "dtype": dtype, "weight_bytes": weights}
        variants = [("dense", "sdpa flash", None, 1.0, 0.9), ("dense", "sdpa math", None, 1.0, 0.5)]
        variants += [("sparq", "sparq triton", "same", 1 / 8, 0.6), ("sparq", "sparq triton", "int8", 3 / 32, 0.55)]
        for method, implementation, kind, ratio, share in variants:
            cache = per_position * S * ratio
            budget = {} if kind is None else {"r": 16, "k": S // 16, "copy": kind}
            own = row | {"method": method, "implementation": implementation, "cache_bytes": cache} | budget
            if S == 131072 and machine is GPU:
                yield DecodeRow(**own, note="needs 82 GB, of which 79 GB are free")
                continue
            inside = 2e-4 + cache / copy / share
            yield DecodeRow(**own, **timed(inside + weights / copy / 0.8), attention_seconds=inside)


def everything(few: bool = False) -> list[Bench]:
    """Records of both kinds on two devices. few: fewer sizes and budgets, none left that only repeats another."""
    grouped = [] if few else [bench(list(attention(GPU, "bfloat16", H=8, G=4)))]
    return [
        *grouped,
        bench(list(attention(GPU, "float16", few=few))),
        bench(list(attention(CPU, "float32", few=few)), CPU),
        bench(list(decode(GPU, "bfloat16"))),
        bench(list(decode(CPU, "float32")), CPU),
    ]
