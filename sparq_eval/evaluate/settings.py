"""The settings of a run: what Hydra composed, checked before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparq_eval.accounting import ACCOUNTING
from sparq_eval.errors import UserError
from sparq_eval.evaluate.backend import BACKENDS
from sparq_eval.evaluate.compression import Template, read_templates
from sparq_eval.evaluate.expand import BUDGETS, Setting, expand, fields, kind_of
from sparq_eval.evaluate.grid import find_sweep, read_grid
from sparq_eval.evaluate.shapes import check_shapes
from sparq_eval.methods import Dense
from sparq_eval.methods.method import is_share

SHARES = {"k": "the prompt", "r": "the head size"}


@dataclass(frozen=True)
class Settings:
    """A run. templates: settings that each task's prompts decide. batch_size None: as many as fit. needle_lengths None:
    as many of the paper's as the model's context has room for. model, data: as in configs/model and configs/data.
    speed None: where kernels run.
    """

    model: Mapping[str, Any]
    settings: Sequence[Setting]
    templates: Sequence[Template]
    tasks: Sequence[str]
    include_path: Path | None
    samples: int
    data: Mapping[str, Any]
    stop: str
    truncate: str
    prompts: Sequence[str]
    accounting: str
    needle_lengths: Sequence[int] | None
    needle_depths: int
    batch_size: int | None
    dtype: str
    device: str | Sequence[str]
    results_dir: Path
    backend: str
    speed: bool | None
    selfcheck: bool
    config: Mapping[str, Any]


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Check a composed config (plain containers). Raises UserError that names the key, the value and what is right."""
    check_shapes(config)
    tasks = list(dict.fromkeys(names_of("task", config["task"])))
    settings, templates = read_methods(config, tasks)
    if choice("baseline", config["baseline"], (True, False)) and Setting("dense", Dense()) not in settings:
        settings.insert(0, Setting("dense", Dense()))
    lengths = config["needle"]["lengths"]
    return Settings(
        model=config["model"],
        settings=list(dict.fromkeys(settings)),
        templates=list(dict.fromkeys(templates)),
        tasks=tasks,
        include_path=folder("include_path", config["include_path"]),
        samples=whole_number("samples", config["samples"]),
        data=config["data"],
        stop=choice("stop", config["stop"], ("task", "paper")),
        truncate=choice("truncate", config["truncate"], ("refuse", "left")),
        prompts=choices("prompt", config["prompt"], ("whole", "context")),
        accounting=choice("accounting", config["accounting"], ACCOUNTING),
        needle_lengths=None if lengths == "context" else whole_numbers("needle.lengths", lengths),
        needle_depths=whole_number("needle.depths", config["needle"]["depths"]),
        batch_size=None if config["batch_size"] == "auto" else whole_number("batch_size", config["batch_size"]),
        dtype=choice("dtype", config["dtype"], ("auto", "float32", "bfloat16", "float16")),
        device=config["device"] if isinstance(config["device"], list) else str(config["device"]),
        results_dir=Path(config["results_dir"]),
        backend=choice("backend", config["backend"], BACKENDS),
        speed={"auto": None, "on": True, "off": False}.get(
            speed := choice("speed", config["speed"], ("auto", True, False, "on", "off")), speed
        ),
        # on and off are booleans in YAML, words on the command line
        selfcheck=choice("selfcheck", config["selfcheck"], (True, False, "on", "off")) in (True, "on"),
        config=recorded(config, tasks),
    )


def read_methods(config: Mapping[str, Any], tasks: Sequence[str]) -> tuple[list[Setting], list[Template]]:
    """Settings from the methods' own lists, from a grid, or to be solved."""
    methods, grid, compression = config["methods"], config.get("grid"), config["compression"]
    budgets = {key: budgets_of(key, config[key]) for key in BUDGETS if config[key] is not None}
    if grid:
        given = {key: config[key] for key in (*BUDGETS, "compression") if config[key] is not None}
        for key, value in given.items():
            raise UserError(f"{key}={shown(value)}: grid={grid['name']} brings its own settings; leave one of them out")
        return read_grid(config, tasks), []
    for key, values in budgets.items():
        if not any(key in fields(kind_of(name, node)) for name, node in methods.items()):
            names = ", ".join(methods)
            raise UserError(f"{key}={shown(values)}: no method of this run ({names}) has such a setting; leave it out")
    templates = [] if compression is None else read_templates(methods, budgets, compressions_of(compression))
    solved = {template.name for template in templates}
    settings = [setting for name in methods if name not in solved for setting in expand(name, methods[name], budgets)]
    ks = [getattr(setting.method, "k", None) for setting in settings]
    ks += [dict(template.given).get("k") for template in templates]
    if "min_k" in budgets and not any(map(is_share, ks)):
        raise UserError(f"min_k={shown(budgets['min_k'])}: it is the least of a k that is a share, such as k=0.25")
    return settings, templates


def recorded(config: Mapping[str, Any], tasks: Sequence[str]) -> Mapping[str, Any]:
    """The config as records keep it: of a grid, the sweeps that were used."""
    if not (grid := config.get("grid")):
        return config
    used = {task: find_sweep(grid, config["model"]["name"], task) for task in tasks}
    return {**config, "grid": {"name": grid["name"], "sweeps": used}}


def check_pins(config: Mapping[str, Any], pins: Mapping[str, Any]) -> None:
    """Refuse a value that is not the one that the run's protocol pins."""
    right = flat(config)
    for key, value in flat(pins).items():
        if right[key] != value:
            given, pinned = shown(right[key]), shown(value)
            raise UserError(f"{key}={given}: protocol={config['protocol']} pins {key}={pinned}; leave one of them out")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return items


def budgets_of(key: str, value: Any) -> list[Any]:
    """Whole numbers, or shares where the budget may be one."""
    values = value if isinstance(value, list) else [value]
    for item in values:
        if key not in SHARES or not isinstance(item, float):
            whole_number(key, item, least=0 if key == "local" else 1)
        elif not is_share(item):
            right = f"must be a whole number of at least 1, or a share of {SHARES[key]} between 0 and 1"
            raise UserError(f"{key}={item}: {right}")
    if not values:
        raise UserError(f"{key}=[]: must be a whole number or a list of them")
    return values


def compressions_of(value: Any) -> list[float]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int | float) or item <= 1:
            raise UserError(f"compression={item}: must be a number above 1, of which 1/{item} of dense is to be moved")
    if not values:
        raise UserError("compression=[]: must be a number above 1 or a list of them")
    return values


def whole_number(key: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value}: must be a whole number of at least {least}")
    return value


def whole_numbers(key: str, value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"{key}=[]: must be a whole number or a list of them")
    return [whole_number(key, item) for item in values]


def names_of(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str) for item in values):
        raise UserError(f"{key}={value}: must be a name or a list of names")
    return values


def folder(key: str, value: Any) -> Path | None:
    if value is None:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise UserError(f"{key}={value}: must be a folder that is there")
    return path


def choices(key: str, value: Any, right: Sequence[Any]) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"{key}=[]: must be one or more of {', '.join(right)}")
    return list(dict.fromkeys(choice(key, item, right) for item in values))


def choice(key: str, value: Any, right: Sequence[Any]) -> Any:
    if value not in right:
        raise UserError(f"{key}={value}: must be one of {', '.join(str(item).lower() for item in right)}")
    return value


def shown(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    return str(value).replace(" ", "")
