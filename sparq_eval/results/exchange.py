"""Frames to other formats and back: Parquet, which keeps all, and lm-eval's results JSON, a file for each setting."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sparq_eval.errors import UserError
from sparq_eval.results.frames import Frames, encodable
from sparq_eval.results.record import MALFORMED, safe
from sparq_eval.results.whole import key_of

PARTS = ("records", "samples")


def to_parquet(frames: Frames, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        getattr(frames, part).to_parquet(folder / f"{part}.parquet", index=False)


def from_parquet(folder: Path) -> Frames:
    """UserError where the two files are not there or not Parquet."""
    try:
        return Frames(*(pd.read_parquet(folder / f"{part}.parquet") for part in PARTS))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: needs records.parquet and samples.parquet as export wrote them ({error})"
        ) from error


def to_lm_eval(frames: Frames, folder: Path) -> list[Path]:
    """A results file as lm-eval writes it for each model and setting, with all of its tasks. The files.

    A file's name ends with a digest of model, variant, method and setting, as long ones are cut.
    """
    written = []
    for (model, variant, method, settings), group in frames.records.groupby(
        ["model", "variant", "method", "settings"], sort=False
    ):
        content: dict[str, Any] = {name: {} for name in ("results", "configs", "higher_is_better", "n-samples")}
        for record in group.to_dict("records"):
            task, metric = record["task"], record["metric"]
            numbers = {f"{metric},none": number(record["value"]), f"{metric}_stderr,none": number(record["stderr"])}
            content["results"][task] = {"alias": task, **numbers}
            content["configs"][task] = {"task": task}
            content["higher_is_better"][task] = {metric: bool(record["higher_is_better"])}
            content["n-samples"][task] = {"original": int(record["samples"]), "effective": int(record["samples"])}
        arguments = {"pretrained": model, "method": method, **json.loads(str(settings))}
        content["config"] = {"model": "sparq_eval", "model_args": arguments}
        content |= {"model_name": model, "model_source": "sparq_eval", "sparq_eval": {"variant": variant}}
        name = "_".join(filter(None, (str(model), str(variant), str(method), short(str(settings)))))
        path = folder / f"results_{safe(name)[:80]}_{key_of(arguments | {'variant': variant})}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        written.append(path)
    return written


def from_lm_eval(path: Path) -> pd.DataFrame:
    """The records of a results file of lm-eval's, whoever wrote it: a row for each task and metric.

    Only what such a file says: model, task, method, settings, metric, higher_is_better, samples, value, stderr.
    """
    try:
        content = json.loads(path.read_bytes())
        config = content.get("config") or {}
        arguments = arguments_of(config.get("model_args"))
        model = str(content.get("model_name") or arguments.get("pretrained") or config.get("model"))
        lines = [
            {
                **{"model": model, "task": task, "method": str(arguments.get("method", "dense"))},
                "settings": json.dumps({k: v for k, v in arguments.items() if k not in OTHER}, sort_keys=True),
                **{"metric": metric, "filter": name, "value": value, "stderr": stderr(numbers, metric, name)},
                "samples": content.get("n-samples", {}).get(task, {}).get("effective"),
                "higher_is_better": content.get("higher_is_better", {}).get(task, {}).get(metric),
            }
            for task, numbers in content["results"].items()
            for metric, name, value in metrics(numbers)
        ]
    except (*MALFORMED, OSError) as error:
        raise UserError(f"{path}: is not a results file of lm-eval ({type(error).__name__}: {error})") from error
    return pd.DataFrame([{name: storable(value) for name, value in line.items()} for line in lines])


OTHER = ("pretrained", "method", "dtype", "device", "batch_size", "revision", "tokenizer")


def storable(value: object) -> object:
    return encodable(value) if isinstance(value, str) else value


def metrics(numbers: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Metric, filter and value of each of a task's numbers; `metric,filter` is lm-eval's name for one."""
    found = []
    for key, value in numbers.items():
        metric, _, name = key.partition(",")
        if name and not metric.endswith("_stderr") and (value is None or isinstance(value, int | float)):
            found.append((metric, name, math.nan if value is None else float(value)))
    return found


def stderr(numbers: Mapping[str, Any], metric: str, name: str) -> float:
    """lm-eval writes N/A where there is none."""
    value = numbers.get(f"{metric}_stderr,{name}")
    return float(value) if isinstance(value, int | float) else math.nan


def arguments_of(value: Any) -> dict[str, Any]:
    """lm-eval keeps model arguments as a mapping or as the text that was given: a=1,b=2."""
    if isinstance(value, Mapping):
        return dict(value)
    return dict(part.split("=", 1) for part in str(value or "").split(",") if "=" in part)


def number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def short(settings: str) -> str:
    return "_".join(f"{key}={value}" for key, value in json.loads(settings).items())
