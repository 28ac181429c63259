"""Settings of a published grid: configs/grid says which sweep is for which task and model, and this finds them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.evaluate.expand import Setting, expand
from sparq_eval.methods import Dense, Method


def read_grid(config: Mapping[str, Any], tasks: Sequence[str]) -> list[Setting]:
    """The settings of each task's sweep, for those methods that the run has."""
    grid, methods = config["grid"], config["methods"]
    known = {name for sweep in grid["sweeps"].values() for name in sweep["methods"]}
    for name in methods:
        if name not in known and name != "dense":
            raise UserError(
                f"method={name}: grid={grid['name']} has no settings for it; it has {', '.join(sorted(known))}"
            )
    found: dict[tuple[str, Method], set[str]] = {}
    for task in tasks:
        sweep = find_sweep(grid, config["model"]["name"], task)
        chosen = [name for name in methods if name in sweep["methods"]]
        if not chosen and set(methods) != {"dense"}:
            raise UserError(
                f"method={','.join(methods)}: for this model and task={task}, grid={grid['name']} has settings of "
                f"{', '.join(sweep['methods'])} alone"
            )
        for name in chosen:
            blocks = sweep["methods"][name]
            for block in blocks if isinstance(blocks, list) else [blocks]:
                for setting in expand(name, methods[name] | block, {}):
                    found.setdefault((name, setting.method), set()).add(task)
    dense = [Setting("dense", Dense())] if "dense" in methods else []
    return dense + [Setting(name, method, frozenset(its)) for (name, method), its in found.items()]


def find_sweep(grid: Mapping[str, Any], model: str, task: str) -> Mapping[str, Any]:
    """The first sweep that is for this task and model; one that names none is for all."""
    for sweep in grid["sweeps"].values():
        if task in sweep.get("tasks", [task]) and model in sweep.get("models", [model]):
            return dict(sweep)
    raise UserError(f"grid={grid['name']}: it has no settings for model={model}, task={task}")
