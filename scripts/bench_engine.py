"""Seconds and peak memory of dense + 15 settings over those of dense alone, on SmolLM2 and SQuAD 1-shot.

Each measurement is a process of its own that loads the model, answers one short request to warm up, and then answers
all examples. Dense and the curve take turns, so that a change of the machine's load meets both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from sparq_eval.cli import CONFIGS
from sparq_eval.evaluate.batches import answer_all
from sparq_eval.evaluate.provenance import device_name, peak_memory, versions
from sparq_eval.harness.task import Data, Protocol, open_task
from sparq_eval.hf.checkpoint import open_checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.request import Request

CURVE: list[Method] = [
    *(SparQ(r, k) for k in (64, 128) for r in (8, 16, 32)),
    *(H2O(k) for k in (128, 256, 512)),
    *(LMInfinite(k) for k in (128, 256, 512)),
    *(FlexGen(k) for k in (8, 32, 128)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mirror", type=Path, help="folder with the data sets as JSON Lines (default: the hub's SQuAD)"
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stop", choices=("paper", "task"), default="paper")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("dense", "curve"), help="measure one side once and print it as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options)))
    else:
        compare(options)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds from the first request to the last answer, without loading, and peak bytes of this process."""
    config = yaml.safe_load((CONFIGS / "model" / f"{options.model}.yaml").read_text(encoding="utf-8"))
    checkpoint = open_checkpoint(**config)
    task = open_task(
        "squad",
        Data("mirror" if options.mirror else "hub", options.mirror),
        checkpoint.tokenizer,
        model_name=checkpoint.name,
        context_length=checkpoint.config.max_position_embeddings,
        protocol=Protocol(stop=options.stop),
    )
    requests = task.requests(options.samples)
    methods: list[Method] = [Dense()]
    if options.only == "curve":
        methods += [method.resolve(shape_of(checkpoint.config)) for method in CURVE]
    engine = Engine(checkpoint.load(options.dtype, options.device), checkpoint.tokenizer)
    engine.answer([Request(0, "warm up", requests[0].prompt[:64], 64, steps=3)], methods)
    start = time.perf_counter()
    tokens = sum(
        len(answer.tokens)
        for batch in answer_all(engine, requests, methods, options.batch_size)
        for answers in batch.answers
        for answer in answers
    )
    return {"seconds": time.perf_counter() - start, "tokens": tokens, "peak": peak_memory(engine.device)}


def compare(options: argparse.Namespace) -> None:
    measured: dict[str, list[dict[str, float]]] = {"dense": [], "curve": []}
    for repeat in range(options.repeats):
        for side, results in measured.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--only", side]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results.append(json.loads(out.splitlines()[-1]))
            seconds, peak = results[-1]["seconds"], results[-1]["peak"] / 2**20
            print(f"{repeat + 1}/{options.repeats} {side:5}: {seconds:7.1f} s, peak {peak:,.0f} MiB", flush=True)
    said = f"{options.samples} examples, batch {options.batch_size}, dtype {options.dtype}, stop={options.stop}"
    print(f"machine: {device_name(torch.device(options.device))}, {torch.get_num_threads()} threads; {versions()}")
    print(f"{options.model}, SQuAD 1-shot, {said}; medians of {options.repeats}")
    print("settings: dense + " + ", ".join(str(method) for method in CURVE))
    for key, unit, scale in (("seconds", "s", 1), ("peak", "MiB", 2**20)):
        dense, curve = (statistics.median(result[key] for result in measured[side]) / scale for side in measured)
        print(f"{key}: dense alone {dense:,.1f} {unit}, dense + {len(CURVE)} settings {curve:,.1f} {unit}", end=", ")
        print(f"ratio {curve / dense:.2f}")


if __name__ == "__main__":
    main()
