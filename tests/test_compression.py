"""Settings solved for a compression: what they move by their formula is what was asked for, or the run says why not."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import tiny_requests

from sparq_eval.errors import UserError
from sparq_eval.evaluate.compression import Solved, ratio_of, solve
from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.methods import H2O, Attended, Dense, FlexGen, LMInfinite, Method, Shape, SparQ, State
from sparq_eval.overrides import CONFIGS
from sparq_eval.request import Request
from sparq_eval.step import Step

SHAPES = {"mha": Shape(16, 1, 128), "gqa": Shape(3, 3, 64)}
WINDOWS = {"none": [None] * 4, "half of the layers": [None, 512, None, 512]}
PROMPTS = [Request(n, str(n), tuple(range(S)), S - 1, steps=30) for n, S in enumerate((1301, 1555, 1777, 1999))]


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config"), resolve=True)
    return config


def read(default: dict[str, Any], methods: list[str], **changes: Any) -> Settings:
    return read_settings({**default, **changes, "methods": {name: default["methods"][name] for name in methods}})


def solved(settings: Settings, shape: Shape, windows: list[int | None] = WINDOWS["none"]) -> list[Solved]:
    return [solve(template, PROMPTS, shape, windows, settings.accounting) for template in settings.templates]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("accounting", ["code", "paper"])
def test_each_method_moves_the_share_that_was_asked_for(
    default: dict[str, Any], shape: str, windows: str, accounting: str
) -> None:
    settings = read(default, ["dense", "sparq", "h2o", "lm_infinite"], compression=[2, 4, 8], accounting=accounting)
    assert [setting.method for setting in settings.settings] == [Dense()]
    ratio = ratio_of(PROMPTS, SHAPES[shape], WINDOWS[windows], accounting)
    found = solved(settings, SHAPES[shape], WINDOWS[windows])
    assert len(found) == 9
    for one in found:
        assert ratio(one.setting.method) == one.nominal == pytest.approx(1 / one.compression, rel=0.01)
        assert one.missed(one.nominal) is None


def test_no_other_whole_number_is_nearer(default: dict[str, Any]) -> None:
    ratio = ratio_of(PROMPTS, SHAPES["gqa"], WINDOWS["none"], "code")
    for one in solved(read(default, ["h2o"], compression=8), SHAPES["gqa"]):
        k = one.setting.method.settings["k"]
        distances = [abs(ratio(H2O(n)) - 1 / 8) for n in (k - 1, k, k + 1)]
        assert min(distances) == distances[1]


def test_half_of_sparqs_budget_goes_to_each_step(default: dict[str, Any]) -> None:
    [one] = solved(read(default, ["sparq"], compression=4), SHAPES["mha"])
    method = one.setting.method
    assert method.settings["r"] == 32
    assert method.settings["local"] == method.settings["k"] // 4
    first = 32 * sum(prompt.prompt_tokens for prompt in PROMPTS) / len(PROMPTS)
    assert first == pytest.approx(2 * 128 * method.settings["k"], rel=0.02)


@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_narrow_copy_is_solved_by_its_share_of_the_caches_width(default: dict[str, Any], itemsize: int) -> None:
    sparq = default["methods"]["sparq"] | {"copy": "fp8"}
    settings = read_settings({**default, "compression": 8, "methods": {"sparq": sparq}})
    [one] = solved(settings, replace(SHAPES["mha"], itemsize=itemsize))
    method, S = one.setting.method, sum(prompt.prompt_tokens for prompt in PROMPTS) / len(PROMPTS)
    rest = 2 * 128 * S / 8 - 16 / itemsize * S  # what an eighth of dense leaves beside r = 16 components of a byte
    assert method.settings["k"] == pytest.approx(rest / (2 * 128), abs=3)


def test_what_is_given_stays_and_the_other_budget_is_solved(default: dict[str, Any]) -> None:
    by_r = solved(read(default, ["sparq"], compression=4, r=[16, 24]), SHAPES["mha"])
    assert [one.setting.method.settings["r"] for one in by_r] == [16, 24]
    [by_k] = solved(read(default, ["sparq"], compression=4, k=64, local=3), SHAPES["mha"])
    assert by_k.setting.method.settings | {"r": 0} == SparQ(64, 64, local=3, reallocate=True).settings | {"r": 0}
    for one in (*by_r, by_k):
        assert one.nominal == pytest.approx(1 / 4, rel=0.02)


def test_a_method_that_reads_all_keys_does_its_least_and_says_so(default: dict[str, Any]) -> None:
    [one] = solved(read(default, ["flexgen"], compression=8), SHAPES["mha"])
    assert one.setting.method == FlexGen(1)
    words = one.missed(0.5007)
    assert words is not None
    assert "asks for 0.1250 of dense and 0.5007 was counted: with the smallest budget it can have" in words


def test_a_run_says_why_what_was_counted_is_something_else(default: dict[str, Any]) -> None:
    [one] = solved(read(default, ["h2o"], compression=8), SHAPES["gqa"])
    assert one.missed(0.12) is None
    assert "its formula gives 0.1248 at the prompts' lengths" in (one.missed(0.11) or "")
    assert "nothing was counted: no answer took a step" in (one.missed(math.nan) or "")
    far = replace(one, nominal=0.14, bound=None)
    assert "the nearest gives 0.1400" in (far.missed(0.14) or "")


@dataclass(frozen=True)
class Few(Method):
    """A user's method: `transfers` is all that is known of what it moves."""

    k: int = 128

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        raise NotImplementedError

    def transfers(self, S: float, shape: Shape) -> float:
        return 7 * S + 3 * self.k * shape.head_size


def test_a_users_method_needs_nothing_but_its_formula(default: dict[str, Any]) -> None:
    methods = {"few": {"_target_": f"{__name__}.Few", "k": [1, 2]}}
    settings = read_settings({**default, "methods": methods, "compression": [3, 5]})
    assert [one.nominal for one in solved(settings, SHAPES["gqa"])] == pytest.approx([1 / 3, 1 / 5], rel=0.01)
    with pytest.raises(UserError, match=r"method few: k=0.25: must be a whole number; it takes no shares"):
        read_settings({**default, "methods": methods, "k": 0.25})


@pytest.mark.parametrize(
    ("methods", "changes", "words"),
    [
        (["sparq"], {"compression": 1}, "compression=1: must be a number above 1"),
        (["sparq"], {"compression": [4, "x"]}, "compression=x: must be a number above 1"),
        (["sparq"], {"compression": []}, "compression=[]: must be a number above 1"),
        (["sparq", "h2o"], {"compression": 4, "k": 64}, "k=64: compression=4 solves k for method h2o"),
        (["sparq"], {"compression": 4, "k": 64, "r": 8}, "k=64: compression=4 solves k for method sparq"),
        (["h2o"], {"compression": 4, "r": 8}, "r=8: no method of this run"),
        (["h2o"], {"compression": 4, "min_k": 8}, "min_k=8: it is the least of a k that is a share"),
    ],
)
def test_a_compression_that_cannot_be_is_refused(
    default: dict[str, Any], methods: list[str], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as refusal:
        read(default, methods, **changes)
    assert words in str(refusal.value)


def test_a_budget_that_the_prompts_have_no_room_for_is_refused(default: dict[str, Any]) -> None:
    settings = read(default, ["lm_infinite"], compression=4)
    [template] = settings.templates
    with pytest.raises(UserError, match="method lm_infinite: k=9: above sink=16"):
        solve(template, tiny_requests([9]), SHAPES["gqa"], [None], "code")
    assert solve(template, tiny_requests([90]), SHAPES["gqa"], [None], "code").setting.method == LMInfinite(22)


@pytest.mark.real
def test_a_run_records_what_was_asked_for(
    default: dict[str, Any], tmp_path: Path, smollm2: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"task": "needle", "samples": 1, "needle": {"lengths": [300], "depths": 1}, "results_dir": str(tmp_path)}
    settings = read(default, ["h2o", "flexgen"], compression=[2, 4], **changes)
    [cell] = run(settings)
    names = [str(setting) for setting in cell.settings]
    assert names[0] == "dense"
    assert names[3:] == ["flexgen k=1"], "both compressions come to one setting, and it has one record"
    records = [json.loads((entry.path / "record.json").read_bytes()) for entry in cell.entries]
    asked = [record["runs"][0].get("requested_ratios") for record in records]
    assert asked == [None, [0.5], [0.25], [0.5, 0.25]]
    assert [record["identity"]["protocol"]["accounting"] for record in records] == ["code"] * 4
    for record, ratio in zip(records[1:3], (0.5, 0.25), strict=True):
        assert record["summary"]["nominal_ratio"] == pytest.approx(ratio, rel=0.02)
    assert "needle, flexgen k=1: compression=4 asks for 0.2500 of dense" in capsys.readouterr().err
    run(settings)
    said = capsys.readouterr().err
    assert "nothing to compute" in said
    assert "needle, flexgen k=1: compression=4 asks for 0.2500 of dense" in said
