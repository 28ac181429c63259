"""`python -m sparq_eval.bench attention|decode`: times with their records; `sparq_eval.report` draws them."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sparq_eval.bench.attention import kernel_runner, measure, torch_runner
from sparq_eval.bench.case import Case, Runner
from sparq_eval.bench.decode import measure_decoding
from sparq_eval.bench.dense import dense_runners
from sparq_eval.bench.record import Growing, begun
from sparq_eval.errors import UserError
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.methods.sparq import COPIES
from sparq_eval.progress import fail, progress, say
from sparq_eval.results.bench_rows import BenchRow

PROGRAM = "sparq_eval.bench"
Keep = Callable[[BenchRow], None]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    options = parser().parse_args()
    device = torch.device(options.device)
    dtype = DTYPES[options.dtype or ("float16" if device.type == "cuda" else "float32")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with keeping(options, device, dtype) as record:
            options.run(options, device, dtype, record.add)
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


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m sparq_eval.bench", description=__doc__)
    kinds = made.add_subparsers(dest="kind", required=True)
    attention = kinds.add_parser("attention", help="one decode step of attention, every dense back end beside kernels")
    attention.set_defaults(run=run_attention)
    attention.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="B")
    attention.add_argument("--length", type=int, nargs="+", default=[4096, 16384], help="S")
    attention.add_argument("--cases", nargs="*", default=[], help="B:S instead of every batch with every length")
    attention.add_argument("--heads", type=int, default=32, help="query heads")
    attention.add_argument("--kv-heads", type=int, default=None, help="key/value heads (default: as many)")
    attention.add_argument("--head-size", type=int, default=128, help="D")
    attention.add_argument("--copies", nargs="+", choices=list(COPIES), default=["same"], help="what step 1 reads")
    attention.add_argument("--others", action="store_true", help="kernels of the other methods too")
    attention.add_argument("--flex", action="store_true", help="FlexAttention too, compiled for each case")
    attention.add_argument("--no-torch", action="store_true", help="leave out methods as they are evaluated")
    decode = kinds.add_parser("decode", help="a token of a whole model behind a full cache")
    decode.set_defaults(run=run_decode)
    decode.add_argument("--model", nargs="+", default=["llama-2-7b"], help="llama-2-7b, llama-3-8b, or one of the zoo")
    decode.add_argument("--length", type=int, nargs="+", default=[4096, 16384], help="S")
    decode.add_argument("--batch", type=int, default=1, help="B")
    decode.add_argument("--copies", nargs="+", choices=list(COPIES), default=["same"], help="what step 1 reads")
    decode.add_argument(
        "--k-share", type=int, default=None, help="k = S // this instead of --k, r = D // 8, as in the paper"
    )
    for one in (attention, decode):
        one.add_argument("--r", type=int, nargs="+", default=[32])
        one.add_argument("--k", type=int, nargs="+", default=[128])
        one.add_argument("--dtype", choices=list(DTYPES), default=None)
        one.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        one.add_argument("--out", type=Path, default=Path("results/bench"))
    return made


def run_attention(options: argparse.Namespace, device: torch.device, dtype: torch.dtype, keep: Keep) -> None:
    H = options.kv_heads or options.heads
    if options.heads % H:
        raise UserError(f"kv-heads={H}: a divisor of heads={options.heads}")
    pairs = [tuple(map(int, case.split(":"))) for case in options.cases]
    pairs = pairs or [(B, S) for B in options.batch for S in options.length]
    cases = [Case(B, H, options.heads // H, options.head_size, S, dtype, device) for B, S in pairs]
    choose = partial(runners_of, options)
    with progress("attention", sum(len(choose(case)) for case in cases), "rows") as advance:
        measure(cases, choose, partial(take, keep, {}), advance)


def runners_of(options: argparse.Namespace, case: Case) -> list[Runner]:
    found = dense_runners(case, flex=options.flex)
    settings = [SparQ(r=r, k=k).resolve(case.shape) for r in options.r for k in options.k]
    if not options.no_torch:
        found += [torch_runner(method) for method in settings[:1]]
    others: list[Method] = [Dense()]
    if options.others:
        others += [H2O(options.k[0]), LMInfinite(options.k[0]), *([FlexGen(options.k[0])] if case.G == 1 else [])]
    if case.device.type == "cuda":
        found += [kernel_runner(method, case) for method in others]
    elif options.others:
        # dense is there already
        found += [torch_runner(method) for method in others[1:]]
    return found + [kernel_runner(replace(method, copy=copy), case) for method in settings for copy in options.copies]


def run_decode(options: argparse.Namespace, device: torch.device, dtype: torch.dtype, keep: Keep) -> None:
    def methods(S: int) -> Sequence[Method]:
        if options.k_share:
            return [SparQ(r=0.125, k=max(1, S // options.k_share), copy=copy) for copy in options.copies]
        return [SparQ(r=r, k=k, copy=copy) for r in options.r for k in options.k for copy in options.copies]

    with progress("decode", len(options.model) * len(options.length), "lengths") as advance:
        for name in options.model:
            told = partial(take, keep, {})
            measure_decoding(name, options.length, methods, dtype, device, options.batch, told, advance)


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
