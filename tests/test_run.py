"""A whole run on the default model and real text: prompts from their context, the self-check, certificates."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparq_eval.errors import UserError
from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.hf import selfcheck
from sparq_eval.hf.engine import Engine
from sparq_eval.overrides import CONFIGS

pytestmark = pytest.mark.real


def settings_with(results: Path, **changes: Any) -> Settings:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        default: Any = OmegaConf.to_container(compose("config"), resolve=True)
    config = copy.deepcopy(default)
    config["methods"] = {name: config["methods"][name] for name in ("sparq", "lm_infinite")}
    small = {"task": "needle", "samples": 2, "needle": {"lengths": [300], "depths": 2}, "k": 40, "r": 16}
    return read_settings({**config, **small, "results_dir": str(results), **changes})


def test_whole_prompts_and_contexts_share_a_prefill_and_have_records_of_their_own(
    tmp_path: Path, smollm2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefills = []
    right = Engine.prefill
    monkeypatch.setattr(Engine, "prefill", lambda self, *a, **k: prefills.append(a) or right(self, *a, **k))
    [cell] = run(settings_with(tmp_path, prompt=["whole", "context"], selfcheck="off"))
    assert len(prefills) == 1
    records = [json.loads((entry.path / "record.json").read_bytes()) for entry in cell.entries]
    how = [(record["identity"]["method"], record["identity"]["protocol"]["prompt"]) for record in records]
    assert how == [(name, prompt) for prompt in ("whole", "context") for name in ("dense", "sparq", "lm_infinite")]
    assert {record["runs"][0]["selfcheck"] for record in records} == {"off"}
    rows = {key: entry.rows() for key, entry in zip(how, cell.entries, strict=True)}
    assert [row.output for row in rows["dense", "whole"]] == [row.output for row in rows["dense", "context"]]
    for (name, prompt), each in rows.items():
        question = 0 if prompt == "whole" else len(cell.requests[0].prompt) - cell.requests[0].context
        assert all(row.decode_steps == row.generated_tokens - 1 + question for row in each)
        assert all(row.calls == 30 * row.decode_steps for row in each)
        assert all(row.layers_active == (0 if name == "dense" else 30) for row in each)
        assert all(row.sparse_steps == (0 if name == "dense" else row.decode_steps) for row in each)


def test_a_run_starts_with_its_check_and_records_it(tmp_path: Path, smollm2: Any) -> None:
    [cell] = run(settings_with(tmp_path, samples=1))
    record = json.loads((cell.entries[1].path / "record.json").read_bytes())
    checked = record["runs"][0]["selfcheck"]
    assert 0 < checked["eager"] < checked["tolerance"]
    assert checked["not_checked"] == []


def test_a_check_that_fails_stops_the_run_before_anything_is_recorded(
    tmp_path: Path, smollm2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "TOLERANCE", dict.fromkeys(selfcheck.TOLERANCE, 0.0))
    with pytest.raises(UserError, match="selfcheck: the logits of Dense with an unlimited budget and eager attention"):
        run(settings_with(tmp_path))
    assert not list(tmp_path.rglob("*.json*"))


def test_a_task_without_a_question_has_no_context_to_start_from(tmp_path: Path, smollm2: Any) -> None:
    with pytest.raises(UserError, match=r"prompt=context: task=wikitext_bpc has no question .* use prompt=whole"):
        run(settings_with(tmp_path, task="wikitext_bpc", prompt="context"))
