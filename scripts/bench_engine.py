"""Seconds and peak memory of dense + 15 settings, of dense alone, and of lm-eval's stock HFLM, on SQuAD 1-shot.

Each measurement is a process of its own that loads the model, answers one short request to warm up, and then answers
all examples. The sides take turns, so that a change of the machine's load meets all of them. HFLM is dense only: same
model, batch, dtype and examples; its answers are compared with ours up to the first line end. --stop paper gives both
a fixed number of steps, --stop task lets both stop at a line end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from sparq_eval.evaluate.batches import answer_all
from sparq_eval.evaluate.provenance import device_name, peak_memory, versions
from sparq_eval.harness.task import Data, Protocol, open_task
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint, torch_dtype
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.overrides import CONFIGS
from sparq_eval.request import Request

CURVE: list[Method] = [
    *(SparQ(r, k) for k in (64, 128) for r in (8, 16, 32)),
    *(H2O(k) for k in (128, 256, 512)),
    *(LMInfinite(k) for k in (128, 256, 512)),
    *(FlexGen(k) for k in (8, 32, 128)),
]
SIDES = ("dense", "curve", "hflm")
STEPS = 30


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
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--only", choices=SIDES, help="measure one side once and print it as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options)))
    else:
        compare(options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the first request to the last answer, without loading, peak bytes, and dense's first lines."""
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
    requests = [replace(request, steps=STEPS) for request in task.requests(options.samples)]
    side = measure_hflm if options.only == "hflm" else measure_ours
    seconds, lines = side(options, checkpoint, requests)
    return {"seconds": seconds, "peak": peak_memory([torch.device(options.device)]), "lines": lines}


def measure_ours(
    options: argparse.Namespace, checkpoint: Checkpoint, requests: Sequence[Request]
) -> tuple[float, list[str]]:
    methods: list[Method] = [Dense()]
    if options.only == "curve":
        methods += [method.resolve(shape_of(checkpoint.config)) for method in CURVE]
    engine = Engine(checkpoint.load(options.dtype, options.device), checkpoint.tokenizer)
    engine.answer([replace(requests[0], prompt=requests[0].prompt[:64], steps=3)], methods)
    start = time.perf_counter()
    batches = list(answer_all(engine, requests, methods, options.batch_size))
    seconds = time.perf_counter() - start
    outputs = {answer.index: answer.output for batch in batches for answer in batch.answers[0]}
    return seconds, [first_line(outputs[request.index]) for request in requests]


def measure_hflm(
    options: argparse.Namespace, checkpoint: Checkpoint, requests: Sequence[Request]
) -> tuple[float, list[str]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    dtype = str(torch_dtype(options.dtype, options.device, checkpoint.config)).removeprefix("torch.")
    lm = HFLM(pretrained=checkpoint.folder_or_id, dtype=dtype, device=options.device, batch_size=options.batch_size)
    until = ["\n"] if options.stop == "task" else []

    def instances(prompts: list[str], steps: int) -> list[Instance]:
        settings = {"until": until, "max_gen_toks": steps, "do_sample": False}
        return [Instance("generate_until", {}, (prompt, settings), n) for n, prompt in enumerate(prompts)]

    decode = checkpoint.tokenizer.decode
    lm.generate_until(instances([decode(requests[0].prompt[:64])], 3), disable_tqdm=True)
    prompts = [decode(request.prompt, skip_special_tokens=True) for request in requests]
    start = time.perf_counter()
    outputs = lm.generate_until(instances(prompts, STEPS), disable_tqdm=True)
    return time.perf_counter() - start, [first_line(output) for output in outputs]


def first_line(text: str) -> str:
    return text.strip().split("\n")[0]


def compare(options: argparse.Namespace) -> None:
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
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
    if "curve" in measured:
        print("curve: dense + " + ", ".join(str(method) for method in CURVE))
    for key, unit, scale in (("seconds", "s", 1), ("peak", "MiB", 2**20)):
        medians = {
            side: statistics.median(result[key] for result in results) / scale for side, results in measured.items()
        }
        shown = [f"{side} {median:,.1f} {unit}" for side, median in medians.items()]
        shown += [
            f"{side} / dense {median / medians['dense']:.2f}" for side, median in medians.items() if side != "dense"
        ]
        print(f"{key}: " + ", ".join(shown))
    if "hflm" in measured:
        ours, theirs = measured["dense"][0]["lines"], measured["hflm"][0]["lines"]
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        print(f"dense and hflm: {same} of {len(ours)} first lines are equal")


if __name__ == "__main__":
    main()
