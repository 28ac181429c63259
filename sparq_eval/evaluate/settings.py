"""The settings of a run: what Hydra composed, checked before anything is loaded."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from sparq_eval.errors import UserError
from sparq_eval.methods import Dense, Method, Shape

BUDGETS = ("k", "r", "local")


@dataclass(frozen=True)
class Setting:
    """A method with its budgets, under the name of its config."""

    name: str
    method: Method

    def resolve(self, shape: Shape) -> "Setting":
        """With the defaults filled in that depend on the model; UserError for a budget that it rules out."""
        try:
            return Setting(self.name, self.method.resolve(shape))
        except ValueError as error:
            raise UserError(f"method {self.name}: {error}") from None


@dataclass(frozen=True)
class Settings:
    """A run. batch_size None: as many as fit. model, data: as in configs/model and configs/data."""

    model: Mapping[str, Any]
    settings: Sequence[Setting]
    tasks: Sequence[str]
    include_path: Path | None
    samples: int
    data: Mapping[str, Any]
    stop: str
    truncate: str
    needle_lengths: Sequence[int]
    needle_depths: int
    batch_size: int | None
    dtype: str
    device: str
    results_dir: Path
    config: Mapping[str, Any]


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Check a composed config (plain containers). Raises UserError that names the key, the value and what is right."""
    budgets = {key: whole_numbers(key, config[key]) for key in BUDGETS if config[key] is not None}
    settings = [setting for name, node in config["methods"].items() for setting in expand(name, node, budgets)]
    for key, values in budgets.items():
        if not any(key in fields(setting.method) for setting in settings):
            names = ", ".join(config["methods"])
            raise UserError(f"{key}={shown(values)}: no method of this run ({names}) has such a setting; leave it out")
    if choice("baseline", config["baseline"], (True, False)) and Setting("dense", Dense()) not in settings:
        settings.insert(0, Setting("dense", Dense()))
    return Settings(
        model=config["model"],
        settings=list(dict.fromkeys(settings)),
        tasks=list(dict.fromkeys(names_of("task", config["task"]))),
        include_path=folder("include_path", config["include_path"]),
        samples=whole_number("samples", config["samples"]),
        data=config["data"],
        stop=choice("stop", config["stop"], ("task", "paper")),
        truncate=choice("truncate", config["truncate"], ("refuse", "left")),
        needle_lengths=whole_numbers("needle.lengths", config["needle"]["lengths"]),
        needle_depths=whole_number("needle.depths", config["needle"]["depths"]),
        batch_size=None if config["batch_size"] == "auto" else whole_number("batch_size", config["batch_size"]),
        dtype=choice("dtype", config["dtype"], ("auto", "float32", "bfloat16", "float16")),
        device=str(config["device"]),
        results_dir=Path(config["results_dir"]),
        config=config,
    )


def expand(name: str, node: Mapping[str, Any], budgets: Mapping[str, list[int]]) -> list[Setting]:
    """All combinations of a method's listed settings; `budgets` of the command line replace the config's."""
    try:
        kind: type[Method] = get_class(node["_target_"])
    except Exception as error:  # hydra raises what the import raises, and more
        raise UserError(
            f"methods.{name}._target_={node.get('_target_')}: not a class that can be imported ({error})"
        ) from error
    known = [field.name for field in dataclasses.fields(kind)]
    values = {key: value for key, value in node.items() if key != "_target_"}
    if unknown := sorted(set(values) - set(known)):
        raise UserError(f"methods.{name}.{unknown[0]}: no such setting; it has {', '.join(known) or 'none'}")
    values |= {key: value for key, value in budgets.items() if key in known}
    lists = [value if isinstance(value, list) else [value] for value in values.values()]
    settings = []
    for combination in itertools.product(*lists):
        try:
            settings.append(Setting(name, kind(**dict(zip(values, combination, strict=True)))))
        except (ValueError, TypeError) as error:
            raise UserError(f"method {name}: {error}") from None
    return settings


def fields(method: Method) -> set[str]:
    return {field.name for field in dataclasses.fields(method)}


def whole_number(key: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value}: must be a whole number of at least {least}")
    return value


def whole_numbers(key: str, value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"{key}=[]: must be a whole number or a list of them")
    return [whole_number(key, item, least=0 if key == "local" else 1) for item in values]


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


def choice(key: str, value: Any, right: Sequence[Any]) -> Any:
    if value not in right:
        raise UserError(f"{key}={value}: must be one of {', '.join(str(item).lower() for item in right)}")
    return value


def shown(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else str(values).replace(" ", "")
