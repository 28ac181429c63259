"""What a user may ask for, and what is refused with which words, before anything is loaded."""

import copy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparq_eval.errors import UserError
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.hf.placement import find_device
from sparq_eval.methods import Dense, FlexGen, Shape, SparQ
from sparq_eval.overrides import CONFIGS, check_overrides


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config"), resolve=True)
    return config


def settings_with(default: dict[str, Any], **changes: Any) -> Settings:
    config = copy.deepcopy(default)
    methods = changes.pop("methods", config["methods"])
    return read_settings({**config, **changes, "methods": {name: config["methods"][name] for name in methods}})


def test_the_default_run_has_dense_and_at_least_twelve_other_settings(default: dict[str, Any]) -> None:
    settings = read_settings(default)
    assert settings.settings[0].method == Dense()
    assert len(settings.settings) >= 13
    assert len(settings.tasks) >= 3


def test_a_list_fans_out_and_reaches_every_method_that_has_the_budget(default: dict[str, Any]) -> None:
    settings = settings_with(default, methods=["sparq", "flexgen"], k=[64, 128], r=[8, 16])
    methods = [setting.method for setting in settings.settings]
    assert methods[0] == Dense()
    assert methods[1:5] == [SparQ(r, k) for r in (8, 16) for k in (64, 128)]
    assert methods[5:] == [FlexGen(64), FlexGen(128)]


def test_a_budget_may_be_a_share(default: dict[str, Any]) -> None:
    settings = settings_with(default, methods=["sparq", "h2o", "lm_infinite", "flexgen"], k=[64, 0.25], min_k=32, r=0.5)
    assert [setting.method for setting in settings.settings[1:3]] == [SparQ(0.5, 64), SparQ(0.5, 0.25, min_k=32)]
    assert {setting.method.fit(1000).settings.get("k") for setting in settings.settings} == {None, 64, 250}
    assert settings.settings[1].resolve(Shape(3, 3, 64)).method.settings["r"] == 32


def test_dense_is_left_out_on_request(default: dict[str, Any]) -> None:
    settings = settings_with(default, methods=["flexgen"], k=4, baseline=False)
    assert [setting.method for setting in settings.settings] == [FlexGen(4)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 0}, "k=0: must be a whole number of at least 1"),
        ({"k": "many"}, "k=many: must be a whole number"),
        ({"k": [64, 1.5]}, "k=1.5: must be a whole number of at least 1, or a share of the prompt between 0 and 1"),
        ({"k": 0.0}, "k=0.0: must be a whole number of at least 1, or a share of the prompt"),
        ({"r": 1.0}, "r=1.0: must be a whole number of at least 1, or a share of the head size"),
        ({"local": 0.5}, "local=0.5: must be a whole number"),
        ({"min_k": 16}, "min_k=16: it is the least of a k that is a share"),
        ({"accounting": "text"}, "accounting=text: must be one of code, paper"),
        ({"prompt": "question"}, "prompt=question: must be one of whole, context"),
        ({"samples": 0}, "samples=0: must be a whole number of at least 1"),
        ({"samples": True}, "samples=True: must be a whole number"),
        ({"batch_size": -1}, "batch_size=-1: must be a whole number"),
        ({"dtype": "float8"}, "dtype=float8: must be one of auto, float32"),
        ({"stop": "never"}, "stop=never: must be one of task, paper"),
        ({"k": 8, "methods": ["lm_infinite"]}, "method lm_infinite: k=8: above sink=16"),
        ({"local": 300, "k": 128}, "local=300: between 0 and k=128"),
        ({"r": 8, "methods": ["h2o"]}, "r=8: no method of this run"),
        ({"task": []}, "task=[]: must be a name"),
    ],
)
def test_bad_values_are_refused_by_key_and_value(default: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refusal:
        settings_with(default, **changes)
    assert words in str(refusal.value)


def test_more_components_than_the_head_has_are_refused(default: dict[str, Any]) -> None:
    settings = settings_with(default, methods=["sparq"], r=100)
    with pytest.raises(UserError, match="r=100: at most the model's head size, 64"):
        settings.settings[1].resolve(Shape(3, 3, 64))


def test_reallocation_is_off_for_shared_heads_and_on_otherwise() -> None:
    assert SparQ().resolve(Shape(3, 3, 64)).reallocate is False
    assert SparQ().resolve(Shape(9, 1, 64)).reallocate is True
    assert SparQ(reallocate=True).resolve(Shape(3, 3, 64)).reallocate is True


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("sample=3", "did you mean samples"),
        ("model=smollm2", "model=smollm2: there is no such model; did you mean"),
        ("method=[dense,sparque]", "method=sparque: there is no such method; did you mean sparq"),
        ("data=mirrors", "did you mean mirror"),
        ("k=[1", "cannot be read as key=value"),
        ("grid=papers", "grid=papers: there is no such grid; did you mean paper"),
        ("protocol=papr", "did you mean paper"),
    ],
)
def test_misspelt_keys_and_names_get_the_nearest_right_one(argument: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_overrides([argument])
    assert words in str(refusal.value)


def test_right_overrides_pass() -> None:
    check_overrides(
        ["-m", "model=llama2-7b,llama2-13b", "task=[squad]", "k=[64,128]", "model.path=x", "hydra.run.dir=x"]
    )


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device={name}"):
        find_device(name)
