"""`python -m sparq_eval.bench attention|decode`: times with their records; `sparq_eval.report` draws them."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from sparq_eval.bench.attention import kernel_runner, measure, torch_runner
from sparq_eval.bench.case import Case, Runner
from sparq_eval.bench.decode import config_of, measure_decoding, sides_of
from sparq_eval.bench.dense import dense_runners
from sparq_eval.bench.options import DTYPES, cases_of, check, device_of, parser
from sparq_eval.bench.record import Growing, begun
from sparq_eval.errors import UserError
from sparq_eval.hf.families import shape_of
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.progress import fail, progress, say
from sparq_eval.results.bench_rows import BenchRow

PROGRAM = "sparq_eval.bench"
Keep = Callable[[BenchRow], None]
Work = Callable[[Keep], None]


def main() -> None:
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check(options)
        device = device_of(options.device)
        dtype = DTYPES[options.dtype or ("float16" if device.type == "cuda" else "float32")]
        work = PREPARE[options.kind](options, device, dtype)
        with keeping(options, device, dtype) as record:
            work(record.add)
    except UserError as error:
        fail(error, PROGRAM)
    except ValueError as error:
        fail(UserError(str(error)), PROGRAM)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    print(f"record: {record.path}")


@contextmanager
def keeping(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[Growing]:
    """The record of what the block times. Where it ends early, it holds what was timed until then, and why."""
    record = Growing(begun(options.kind, device, dtype), options.out)
    try:
        yield record
    except BaseException as error:
        if record.path:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            why = "interrupted" if stopped else f"ended by an error ({type(error).__name__}: {first_line(error)})"
            path = record.write(f"{why} after {len(record.bench.rows)} rows")
            say(f"{PROGRAM}: {why}; the {len(record.bench.rows)} rows that were timed are in {path}")
        raise
    record.write("")


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


def prepare_attention(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Work:
    """What is to be done. ValueError, before anything is allocated, where a case cannot have a method."""
    H = options.kv_heads or options.heads
    G, D = options.heads // H, options.head_size
    cases = [Case(B, H, G, D, S, dtype, device) for B, S in cases_of(options)]
    choose = partial(runners_of, options)
    total = sum(len(choose(case)) for case in cases)

    def work(keep: Keep) -> None:
        with progress("attention", total, "rows") as advance:
            measure(cases, choose, partial(take, keep, {}), advance)

    return work


def runners_of(options: argparse.Namespace, case: Case) -> list[Runner]:
    found = dense_runners(case, flex=options.flex)
    settings = [SparQ(r=r, k=k).resolve(case.shape) for r in options.r for k in options.k]
    if not options.no_torch:
        found += [torch_runner(method) for method in settings[:1]]
    others: list[Method] = [Dense()]
    if options.others:
        others += [H2O(options.k[0]), LMInfinite(options.k[0]), FlexGen(options.k[0])]
    if case.device.type == "cuda":
        found += [runner_of(method, case) for method in others]
    elif options.others:
        # dense is there already
        found += [torch_runner(method) for method in others[1:]]
    return found + [kernel_runner(replace(method, copy=copy), case) for method in settings for copy in options.copies]


def runner_of(method: Method, case: Case) -> Runner:
    """The method's kernel, or the method as it is evaluated where it has none."""
    try:
        return kernel_runner(method, case)
    except ValueError:
        return torch_runner(method)


def prepare_decode(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Work:
    """What is to be done. UserError or ValueError, before anything is allocated, where a model cannot have a method."""

    def methods(S: int) -> Sequence[Method]:
        if options.k_share:
            return [SparQ(r=0.125, k=max(1, S // options.k_share), copy=copy) for copy in options.copies]
        return [SparQ(r=r, k=k, copy=copy) for r in options.r for k in options.k for copy in options.copies]

    for name in options.model:
        shape = shape_of(config_of(name, max(options.length)), dtype.itemsize)
        for S in options.length:
            sides_of(methods(S), device, shape)

    def work(keep: Keep) -> None:
        with progress("decode", len(options.model) * len(options.length), "lengths") as advance:
            for name in options.model:
                told = partial(take, keep, {})
                measure_decoding(name, options.length, methods, dtype, device, options.batch, told, advance)

    return work


PREPARE = {"attention": prepare_attention, "decode": prepare_decode}


def take(keep: Keep, best: dict[tuple, float], row: BenchRow) -> None:
    keep(row)
    tell(best, row)


def tell(best: dict[tuple, float], row: BenchRow) -> None:
    """Print a row, beside the fastest dense one of the same sizes so far."""
    sizes = (row.B, row.S)
    if row.method == "dense" and row.seconds:
        best[sizes] = min(best.get(sizes, row.seconds), row.seconds)
    setting = " ".join(f"{name}={value}" for name in ("r", "k", "copy") if (value := getattr(row, name)) is not None)
    label = f"B={row.B} S={row.S} {row.implementation} {setting}"
    if row.seconds is None:
        print(f"{label:60} {row.note}", flush=True)
        return
    speedup = f"{best[sizes] / row.seconds:6.2f} x" if sizes in best else ""
    print(f"{label:60} {row.seconds * 1e6:10.1f} us {speedup}", flush=True)


if __name__ == "__main__":
    main()
