"""What is wrong with the bench's command line is one sentence, said before anything is allocated or timed."""

import sys
from typing import NoReturn

import pytest
import torch

from sparq_eval.bench import record
from sparq_eval.bench.__main__ import main, runners_of
from sparq_eval.bench.case import Case
from sparq_eval.bench.options import parser

WRONG = {
    "attention --device foo": "--device foo: must be cpu, cuda or cuda:N",
    "attention --device meta": "--device meta: must be cpu, cuda or cuda:N",
    "attention --device cuda:99": "--device cuda:99: torch sees {n} CUDA devices here; try --device cpu",
    "attention --cases 1:0": "--cases 1:0: must be B:S, a batch of at least 1 and a length of at least 2, as 64:16384",
    "attention --cases 0:16": "--cases 0:16: must be B:S",
    "attention --cases=-1:64": "--cases -1:64: must be B:S",
    "attention --cases 1": "--cases 1: must be B:S",
    "attention --cases 1:16 x:y": "--cases x:y: must be B:S",
    "attention --cases 1:16:4": "--cases 1:16:4: must be B:S",
    "attention --batch 0": "--batch 0: must be a whole number of at least 1",
    "attention --length 16 1": "--length 1: must be a whole number of at least 2",
    "attention --heads 0": "--heads 0: must be a whole number of at least 1",
    "attention --kv-heads 0": "--kv-heads 0: must be a whole number of at least 1",
    "attention --kv-heads -1": "--kv-heads -1: must be a whole number of at least 1",
    "attention --heads 8 --kv-heads 3": "--kv-heads 3: must be a divisor of --heads 8",
    "attention --head-size 0": "--head-size 0: must be a whole number of at least 1",
    "attention --k 0": "--k 0: must be a whole number of at least 1",
    "attention --r 4 17 --head-size 16": "r=17: at most the model's head size, 16",
    "attention --others --r 4 --k 8": "k=8: above sink=16",
    "decode --length 0": "--length 0: must be a whole number of at least 2",
    "decode --k-share 0": "--k-share 0: must be a whole number of at least 1",
    "decode --k-share -3": "--k-share -3: must be a whole number of at least 1",
    "decode --batch 0": "--batch 0: must be a whole number of at least 1",
    "decode --model no-such": "--model no-such: must be llama-2-7b, llama-3-8b (random weights), or a model of",
    "decode --r 129": "r=129: at most the model's head size, 128",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_value_is_one_sentence(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def allocate(*_: object) -> NoReturn:
        raise AssertionError("something was allocated")

    monkeypatch.setattr("sparq_eval.bench.__main__.begun", allocate)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    device = [] if "--device" in words else ["--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["bench", *words.split(), *device])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1
    assert said.startswith(f"sparq_eval.bench: {WRONG[words].format(n=torch.cuda.device_count())}")


def test_the_version_of_what_may_be_timed_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "version", lambda name: {"flashinfer-python": "0.5.3"}.get(name, "1"))
    assert record.versions() == {"triton": "1", "transformers": "1", "flashinfer": "0.5.3"}


def test_on_a_gpu_every_method_is_timed_by_its_kernel_or_where_it_has_none_by_torch() -> None:
    pytest.importorskip("triton", reason="triton cannot be installed here")
    for kv_heads, flexgen in ((8, "flexgen triton"), (1, "flexgen torch")):
        options = parser().parse_args(["attention", "--others", "--kv-heads", str(kv_heads)])
        case = Case(1, kv_heads, 32 // kv_heads, 128, 4096, torch.float16, torch.device("cuda"))
        names = [runner.name for runner in runners_of(options, case)]
        assert {"dense triton", "h2o triton", "lm_infinite triton", flexgen, "sparq triton"} <= set(names)
