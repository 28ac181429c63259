"""The method that the README shows is a method: its own text is run here."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import Letters, naive_logits, tiny_model, tiny_requests

from sparq_eval.evaluate.settings import read_settings
from sparq_eval.hf.engine import Engine
from sparq_eval.overrides import CONFIGS

README = Path(__file__).parents[1] / "README.md"


def block(first_line: str) -> str:
    """The code block of the README that begins with this comment, which names a file."""
    [text] = re.findall(rf"```\w+\n# {re.escape(first_line)}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return text


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "my_methods.py").write_text(block("my_methods.py"), encoding="utf-8")
    folder = tmp_path / "my_configs/method"
    folder.mkdir(parents=True)
    (folder / "largest_keys.yaml").write_text(block("my_configs/method/largest_keys.yaml"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{tmp_path / 'my_configs'}]"
        composed: Any = OmegaConf.to_container(compose("config", [search, "method=[largest_keys]"]), resolve=True)
    return composed


def test_the_readmes_method_is_short() -> None:
    assert len(block("my_methods.py").splitlines()) <= 50
    assert list(yaml.safe_load(block("my_configs/method/largest_keys.yaml"))) == ["_target_", "k"]


def test_the_readmes_method_runs_and_keeps_the_laws(config: dict[str, Any]) -> None:
    settings = [setting.method for setting in read_settings({**config, "k": [5, 500]}).settings]
    assert [type(method).__name__ for method in settings] == ["Dense", "LargestKeys", "LargestKeys"]
    engine = Engine(tiny_model("gqa"), Letters())
    requests = tiny_requests([20, 33], steps=8)
    dense, few, all_ = engine.answer(requests, settings)
    for request, answer in zip(requests, few, strict=True):
        naive = naive_logits(engine.model, settings[1], request, answer.tokens)
        assert answer.tokens == tuple(naive.argmax(dim=-1).tolist())
        assert answer.certificate.sparse_steps == answer.certificate.steps == 7
        assert answer.traffic.counted < answer.traffic.counted_dense
    assert [answer.tokens for answer in all_] == [answer.tokens for answer in dense]
    forced = tiny_requests([20, 33], forced=[7, 9])
    quick, slow = engine.answer(forced, settings), engine.answer(forced, settings, stepwise=True)
    for one, other in zip(quick, slow, strict=True):
        assert [a.loglikelihood for a in one] == pytest.approx([a.loglikelihood for a in other], abs=1e-3)
