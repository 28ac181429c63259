"""Do a copy of a model on each of two devices, and one copy over both, answer as the first device alone does?

    python scripts/check_devices.py [--model smollm2-135m] [--devices cuda:0,cuda:1]

One line for each way; exit status 1 if an answer differs. Without the model's packages a random tiny Llama serves.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import answer_all
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint
from sparq_eval.hf.families import shape_of
from sparq_eval.hf.placement import Placement, place
from sparq_eval.hf.selfcheck import self_check
from sparq_eval.hf.workers import start
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.overrides import CONFIGS
from sparq_eval.request import Answer, Request

METHODS: list[Method] = [Dense(), SparQ(r=4, k=24, reallocate=True), H2O(k=24), LMInfinite(k=24), FlexGen(k=4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    options = parser.parse_args()
    devices = options.devices.split(",")
    torch.set_num_threads(1)  # a process gets its share of the threads, and sums depend on how many there are
    ways: list[str | list[str]] = [devices, "split"] if "cuda" in options.devices else [devices]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = find_model(options.model, Path(folder))
        alone, seconds = answers(checkpoint, place(devices[0], checkpoint, "float32"))
        print(f"{devices[0]}: {len(alone)} answers of {checkpoint.name} in {seconds:.1f} s", flush=True)
        same = [compare(checkpoint, way, alone) for way in ways]
    sys.exit(not all(same))


def find_model(name: str, folder: Path) -> Checkpoint:
    try:
        return open_checkpoint(**yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8")))
    except (UserError, OSError) as error:
        print(f"a random tiny Llama instead of {name}: {error}")
    torch.manual_seed(0)
    sizes = dict(hidden_size=128, intermediate_size=256, num_attention_heads=8, num_key_value_heads=4, vocab_size=512)
    LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=6, initializer_range=0.2)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(512)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return open_checkpoint("tiny", str(folder))


def answers(checkpoint: Checkpoint, placement: Placement) -> tuple[dict[tuple[int, int], Answer], float]:
    """Answers by setting and example, and the seconds that they took; UserError if the model fails its check."""
    methods = [method.resolve(shape_of(checkpoint.config)) for method in METHODS]
    tokens = torch.randint(3, checkpoint.config.vocab_size, (32, 256), generator=torch.Generator().manual_seed(1))
    rows = [tuple(row[: 64 + 6 * b]) for b, row in enumerate(tokens.tolist())]
    generated = [Request(b, f"{b}", row, len(row), steps=32) for b, row in enumerate(rows[:16])]
    scored = [Request(b, f"{b}", row[:-20], len(row) - 20, forced=row[-20:]) for b, row in enumerate(rows[16:], 16)]
    found: dict[tuple[int, int], Answer] = {}
    with start(checkpoint, "float32", placement, "code") as engine:
        self_check(engine, scored, methods)
        begin = time.perf_counter()
        for requests in (generated, scored):
            for batch in answer_all(engine, requests, methods, 4):
                found |= {(n, answer.index): answer for n, each in enumerate(batch.answers) for answer in each}
        return found, time.perf_counter() - begin


def compare(checkpoint: Checkpoint, way: str | list[str], alone: dict[tuple[int, int], Answer]) -> bool:
    placement = place(way, checkpoint, "float32")
    found, seconds = answers(checkpoint, placement)
    same = sum(alone[key].tokens == answer.tokens for key, answer in found.items())
    apart = max(abs((alone[key].loglikelihood or 0) - (answer.loglikelihood or 0)) for key, answer in found.items())
    print(
        f"{placement}: {same} of {len(alone)} answers have the same tokens, loglikelihoods differ by {apart:.1e} at "
        f"most; {seconds:.1f} s",
        flush=True,
    )
    return same == len(alone) and apart < 1e-2


if __name__ == "__main__":
    main()
