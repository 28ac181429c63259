"""Where a model goes is decided by what its weights need and what the GPUs have, before any weight is read."""

import re
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from sparq_eval.errors import UserError
from sparq_eval.evaluate.provenance import provenance
from sparq_eval.hf import placement
from sparq_eval.hf.checkpoint import Checkpoint
from sparq_eval.hf.placement import Placement, find_devices, place

GIB = 2**30
CPU, GPU = torch.device("cpu"), [torch.device("cuda", n) for n in range(3)]

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(torch.cuda.is_available(), reason="they make believe which GPUs there are"),
]


def model_of(gib: float) -> Checkpoint:
    """A model of this size in float32 that does not exist: reading its weights would fail."""
    sizes = dict(hidden_size=1024, num_attention_heads=8, num_key_value_heads=8, intermediate_size=4096, vocab_size=32)
    layers = round(gib * GIB / 4 / (4 * 1024**2 + 3 * 1024 * 4096))
    config = LlamaConfig(**sizes, num_hidden_layers=layers, tie_word_embeddings=True)
    return Checkpoint("large", "nowhere", None, config, {}, "nowhere")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[torch.device, float]:
    """GPUs by their memory in GiB, two of them unless a test says otherwise."""
    there = {GPU[0]: 2.0, GPU[1]: 2.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(there))
    monkeypatch.setattr(placement, "memory_of", lambda device: int(there[device] * GIB))
    return there


def test_a_model_that_fits_one_gpu_is_copied_to_each(gpus: dict[torch.device, float]) -> None:
    assert place("auto", model_of(1.5), "float32") == Placement((GPU[0], GPU[1]))
    assert place(["cuda:1", "cuda:0"], model_of(1.5), "float32") == Placement((GPU[1], GPU[0]))
    assert place("cuda:1", model_of(1.5), "float32") == Placement((GPU[1],))


def test_a_gpu_too_small_for_a_copy_has_none(gpus: dict[torch.device, float]) -> None:
    gpus |= {GPU[1]: 1.0, GPU[2]: 4.0}
    assert place("auto", model_of(1.5), "float32") == Placement((GPU[0], GPU[2]))


def test_a_model_that_fits_no_gpu_is_split_between_whole_layers(gpus: dict[torch.device, float]) -> None:
    found = place("auto", model_of(2.5), "float32")
    assert found == Placement((GPU[0], GPU[1]), split=True) and found.copies == 1
    layers = [name for name in found.modules if name.startswith("model.layers.")]
    assert all(re.fullmatch(r"model\.layers\.\d+", name) for name in layers)
    counts = [sum(found.modules[name] == n for name in layers) for n in (0, 1)]
    assert sum(counts) == model_of(2.5).config.num_hidden_layers and abs(counts[0] - counts[1]) <= 3


def test_a_model_that_fits_one_gpu_is_split_if_asked_for(gpus: dict[torch.device, float]) -> None:
    assert place("split", model_of(1.0), "float32").split


def test_what_fits_nowhere_is_refused_with_sizes_before_weights_are_read(gpus: dict[torch.device, float]) -> None:
    for device in ("auto", "split"):
        with pytest.raises(UserError, match=r"weights take 5\.0 GiB in float32 and 2 GPUs have 3\.6 GiB .*bfloat16"):
            place(device, model_of(5), "float32")
    with pytest.raises(UserError, match=r"weights take 2\.5 GiB in bfloat16 and cuda:1 has 1\.8 GiB"):
        place("cuda:1", model_of(5), "bfloat16")
    with pytest.raises(UserError, match=r"2 copies of its weights take 3\.0 GiB"):
        place(["cuda:0", "cuda:0"], model_of(1.5), "float32")
    del gpus[GPU[1]]
    gpus[torch.device("cuda")] = gpus.pop(GPU[0])
    with pytest.raises(UserError, match=r"weights take 2\.5 GiB in bfloat16 and cuda has 1\.8 GiB"):
        place("auto", model_of(5), "bfloat16")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("split", "device=split: torch sees 0 CUDA devices"),
        ([], r"device=\[\]: must name devices"),
        (["auto", "cpu"], r"device=\[auto,cpu\]: must name devices"),
        (["cpu", "cuda:7"], "device=cuda:7: torch sees 0 CUDA devices"),
        (["cpu", "split"], "device=split: must be auto, cpu, cuda"),
    ],
)
def test_devices_that_cannot_be_are_refused(setting: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_devices(setting)


def test_a_cpu_and_a_gpu_do_not_share_a_run(gpus: dict[torch.device, float]) -> None:
    with pytest.raises(UserError, match=r"device=\[cpu,cuda:1\]: .*of one kind"):
        find_devices(["cpu", "cuda:1"])


def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert place("auto", model_of(1), "auto") == Placement((CPU,)) == place("cpu", model_of(1), "auto")


def test_a_record_says_which_devices_and_how() -> None:
    one, two = provenance(Placement((CPU,))), provenance(Placement((CPU, CPU)))
    assert (one["placement"], two["placement"]) == ("cpu", "a copy on each of cpu, cpu")
    assert one["device"] == two["device"]
    assert str(Placement((GPU[0], GPU[1]), split=True)) == "one copy over cuda:0, cuda:1"
