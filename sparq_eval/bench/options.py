"""The bench's command line: its options, and what is wrong with their values, said before anything is allocated."""

import argparse
from pathlib import Path

import torch

from sparq_eval.errors import UserError
from sparq_eval.methods.sparq import COPIES

ABOUT = "Times with their records; `python -m sparq_eval.report` draws them."
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# the last position of a cache is the query's own, and something must lie before it
LEAST = {"length": 2}
WHOLE = ("batch", "length", "heads", "kv_heads", "head_size", "r", "k", "k_share")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m sparq_eval.bench", description=ABOUT)
    kinds = made.add_subparsers(dest="kind", required=True)
    attention = kinds.add_parser("attention", help="one decode step of attention, every dense back end beside kernels")
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


def check(options: argparse.Namespace) -> None:
    """UserError for the first value that can never be right."""
    device_of(options.device)
    for name in WHOLE:
        value, least = getattr(options, name, None), LEAST.get(name, 1)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one < least:
                raise UserError(f"--{name.replace('_', '-')} {one}: must be a whole number of at least {least}")
    if options.kind == "attention":
        cases_of(options)
        if options.kv_heads and options.heads % options.kv_heads:
            raise UserError(f"--kv-heads {options.kv_heads}: must be a divisor of --heads {options.heads}")


def cases_of(options: argparse.Namespace) -> list[tuple[int, int]]:
    """B and S of each case."""
    found = []
    for case in options.cases:
        B, _, S = case.partition(":")
        if not (B.isdecimal() and S.isdecimal() and int(B) >= 1 and int(S) >= LEAST["length"]):
            raise UserError(
                f"--cases {case}: must be B:S, a batch of at least 1 and a length of at least 2, as 64:16384"
            )
        found.append((int(B), int(S)))
    return found or [(B, S) for B in options.batch for S in options.length]


def device_of(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: must be cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"--device {name}: torch sees {count} CUDA devices here; try --device cpu")
    return device
