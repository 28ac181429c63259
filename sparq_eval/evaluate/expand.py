"""From the configs of methods to settings: a list of values for one thing makes a setting of each."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from hydra.utils import get_class

from sparq_eval.errors import UserError
from sparq_eval.methods import Method, Shape

BUDGETS = ("k", "min_k", "r", "local")
SHOWN = ("r", "k", "temperature", "score", "prompt")


@dataclass(frozen=True)
class Setting:
    """A method with its budgets, under the name of its config. tasks: those that it is for; None for all.

    prompt: how much of a prompt is prefilled densely: `whole`, or `context` for all before the question.
    """

    name: str
    method: Method
    tasks: frozenset[str] | None = None
    prompt: str = "whole"

    def __str__(self) -> str:
        """By its budgets: `sparq r=16 k=128`."""
        settings = self.method.settings | ({} if self.prompt == "whole" else {"prompt": self.prompt})
        return " ".join([self.name, *(f"{key}={settings[key]}" for key in SHOWN if key in settings)])

    def resolve(self, shape: Shape) -> "Setting":
        """With the defaults filled in that depend on the model; UserError for a budget that it rules out."""
        try:
            return dataclasses.replace(self, method=self.method.resolve(shape))
        except ValueError as error:
            raise UserError(f"method {self.name}: {error}") from None


def expand(name: str, node: Mapping[str, Any], budgets: Mapping[str, list[Any]]) -> list[Setting]:
    """All combinations of a method's listed settings; `budgets` of the command line replace the config's."""
    kind = kind_of(name, node)
    values = {key: value for key, value in node.items() if key != "_target_"}
    settings = []
    for combination in combinations(name, kind, values | reaching(kind, budgets)):
        try:
            settings.append(Setting(name, kind(**combination)))
        except (ValueError, TypeError) as error:
            raise UserError(f"method {name}: {error}") from None
    return settings


def combinations(name: str, kind: type[Method], values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each key. UserError for keys that the method lacks, shares that it cannot take."""
    known = fields(kind)
    if unknown := sorted(set(values) - set(known)):
        raise UserError(f"methods.{name}.{unknown[0]}: no such setting; it has {', '.join(known) or 'none'}")
    hints = get_type_hints(kind)
    lists = [value if isinstance(value, list) else [value] for value in values.values()]
    for key, listed in zip(values, lists, strict=True):
        for value in listed:
            if not isinstance(value, int | float | str | None):
                raise UserError(f"method {name}: {key}={value}: must be one value, or a list of such")
            if hints[key] is int and isinstance(value, float):
                raise UserError(f"method {name}: {key}={value}: must be a whole number; it takes no shares")
    for combination in itertools.product(*lists):
        yield dict(zip(values, combination, strict=True))


def reaching(kind: type[Method], budgets: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of the budgets that the method has."""
    return {key: values for key, values in budgets.items() if key in fields(kind)}


def kind_of(name: str, node: Mapping[str, Any]) -> type[Method]:
    try:
        return get_class(node["_target_"])
    except Exception as error:  # hydra raises what the import raises, and more
        raise UserError(
            f"methods.{name}._target_={node.get('_target_')}: not a class that can be imported ({error})"
        ) from error


def fields(kind: type[Method]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]
