"""Records that were never measured, for the page: answers that change, needles, and outputs that would be code."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparq_eval.results import Frames, Identity, Row, Store
from sparq_eval.results.prompts import Prompt, keep_prompts

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '=HYPERLINK("http://evil.example","x")',
    "<!-- LATER --> {{x}} %{y} $x$ &lt;b&gt; \u202etxt\u2028\x00",
)
MODEL = "<img src=x onerror=alert(3)>/m"
METHOD = '<a href="javascript:alert(4)">m</a>'
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dense", {}),
    *(("sparq", {"r": r, "k": k, "local": 8}) for k in (32, 64) for r in (4, 8, 16)),
    *(("h2o", {"k": k, "local": k // 4}) for k in (64, 256)),
    (METHOD, {"note": HOSTILE[0]}),
)
LENGTHS, DEPTHS = (99, 1000, 4000), 5
RUN = {"started": "2024-01-31", "device": "Abacus & sons", "commit": "c0ffee" * 6 + "beef", "command": "sparq <eval>"}


def write_records(root: Path, n: int = 40) -> None:
    """Two models; the second has a name that would be markup."""
    for model in ("org/m_1", MODEL):
        for task in ("squad", "bits") if model == MODEL else ("squad", "needle"):
            prompts = [Prompt(prompt(task, index), references(index)) for index in range(n)]
            folders = {measure(root, model, task, *setting, prompts).parent for setting in SETTINGS}
            # the prompts of the second model were not kept
            for folder in folders if model != MODEL else ():
                keep_prompts(folder, prompts)


def prompt(task: str, index: int) -> str:
    return f"{HOSTILE[index % 2]} question {index} of {task}\n"


def references(index: int) -> tuple[str, ...]:
    """Of every third example none, of the others one or nine."""
    return tuple(f"the answer of {index} is {HOSTILE[0]} {n}" for n in range((0, 1, 9)[index % 3]))


def lengths(output: str) -> str:
    """Tokens of four characters, with one between that makes none whole."""
    whole, rest = divmod(len(output), 4)
    return " ".join(["4 0"] * whole + [str(rest)])


def measure(root: Path, model: str, task: str, method: str, settings: dict, prompts: list[Prompt]) -> Path:
    identity = Identity({"name": model}, task, {"set": task}, method, settings, {"dtype": "float32"}, {"torch": "2"})
    chance = random.Random(f"{model} {task} {method} {settings}")
    metric = {"squad": "prefix_match", "needle": "needle_match", "bits": "bits_per_character"}[task]
    names = [f"{length}-{int(depth * length)}" for length in LENGTHS for depth in np.linspace(0, 1, DEPTHS)]
    rows = []
    for index in range(len(names) if task == "needle" else len(prompts)):
        S, share = 1000 + index, 1.0 if method == "dense" else 0.1 + settings.get("r", 8) * settings.get("k", 32) / 4096
        right = method == "dense" or chance.random() < 0.7
        output = f"the answer of {index} is {'right' if right else HOSTILE[index % len(HOSTILE)]} again"
        rows.append(
            Row(
                index=index,
                id=names[index] if task == "needle" else (HOSTILE[0] if index == 3 else f"id-{index}"),
                prompt_tokens=S,
                generated_tokens=5,
                output="" if task == "bits" else output,
                score=chance.uniform(0.8, 1.2) if task == "bits" else float(right),
                nominal=share * S * 2**20,
                nominal_dense=S * 2.0**20,
                counted=0.9 * share * S * 2**20 if method != "dense" else S * 2.0**20,
                counted_dense=S * 2.0**20,
                decode_steps=4,
                calls=12,
                sparse_steps=0.0 if method == "dense" else 4.0,
                layers_active=0 if method == "dense" else 3,
                truncated=index == 5,
                finite=True,
                seconds=0.1,
                cluster=f"c{index // 2}",
                prompt=prompts[index].name,
                token_lengths=lengths(output) if model != MODEL else "",
            )
        )
    entry = Store(root).open(identity, metric=metric, higher_is_better=task != "bits")
    entry.append(rows, RUN)
    return entry.path


def compared(records: pd.DataFrame) -> pd.DataFrame:
    """The columns of comparisons, made up from scores."""
    keys = ["model", "task", "variant"]
    dense = records[records["method"] == "dense"].set_index(keys)["value"]
    found = records[records["method"] != "dense"][[*keys, "method", "settings", "key", "samples"]].reset_index(
        drop=True
    )
    value = records[records["method"] != "dense"]["value"].to_numpy()
    difference = value - dense.loc[list(found[keys].itertuples(index=False, name=None))].to_numpy()
    told = np.abs(difference) > 0.2
    p = np.where(told, 0.01, 0.4)
    return found.assign(
        clusters=found["samples"] // 2,
        difference=difference,
        low=difference - 0.1,
        high=difference + 0.1,
        p=p,
        q=p,
        test="McNemar",
        better=told & (difference > 0),
        worse=told & (difference < 0),
        more=np.where(told, np.nan, 12.3),
    )


def headlines(records: pd.DataFrame) -> pd.DataFrame:
    """The columns of the headline, made up."""
    found = records[records["method"] != "dense"][["model", "task", "variant", "method"]].drop_duplicates()
    numbers = {"compression": 4.5, "low": 3.25, "high": np.nan, "margin": 0.01}
    return found.assign(form=found["method"], **numbers, verdict="shown", note=HOSTILE[1]).reset_index(drop=True)


def many(frames: Frames, settings: int, examples: int) -> Frames:
    """As many rows as asked for, of one model and task, after the first record's."""
    record, row = frames.records.iloc[[1]], frames.samples.iloc[[0]]
    keys = [f"{number:064x}" for number in range(settings)]
    values = json_settings(settings)
    records = record.loc[record.index.repeat(settings)].reset_index(drop=True)
    records = records.assign(
        key=keys, settings=values, k=range(1, settings + 1), samples=examples, method="h2o", r=None
    )
    records = records.astype({"r": "Int64", "k": "Int64"})
    records["value"] = np.linspace(0.2, 0.8, settings)
    records["counted"] = records["nominal"] = 2.0**20 * np.arange(1, settings + 1)
    samples = row.loc[row.index.repeat(settings * examples)].reset_index(drop=True)
    index = np.tile(np.arange(examples), settings)
    chance = np.random.default_rng(0).integers(0, 2, settings * examples)
    outputs = [f"the answer to {number} is {score}" for number, score in zip(index, chance, strict=True)]
    samples = samples.assign(key=np.repeat(keys, examples), settings=np.repeat(values, examples), method="h2o")
    samples = samples.assign(index=index, id=[f"id-{number}" for number in index], score=chance.astype(float))
    return Frames(records, samples.assign(output=outputs))


def json_settings(count: int) -> list[str]:
    return [f'{{"k": {number + 1}}}' for number in range(count)]
