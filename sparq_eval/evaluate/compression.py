"""`compression=c`: the whole number of a method's budget with which it moves 1/c of dense, by its own formula."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparq_eval.accounting import cached, nominal
from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import seen
from sparq_eval.evaluate.expand import BUDGETS, Setting, combinations, fields, kind_of, reaching
from sparq_eval.methods import Dense, Method, Shape
from sparq_eval.request import Request

SOLVED = ("k", "r")
NEAR = 0.05


@dataclass(frozen=True)
class Template:
    """A method whose budget `free` is to be solved, the settings in `given` being what they are."""

    name: str
    kind: type[Method]
    given: tuple[tuple[str, Any], ...]
    free: str
    compression: float

    def at(self, value: int, shape: Shape) -> Method:
        """Raises ValueError where the method cannot have this budget."""
        chosen = self.kind.compressed(self.compression, shape)
        return self.kind(**{**chosen, **dict(self.given), self.free: value}).resolve(shape)


@dataclass(frozen=True)
class Solved:
    """nominal: what the setting moves of dense, by its formula. bound: smallest or largest, if its budget is that."""

    setting: Setting
    compression: float
    nominal: float
    bound: str | None

    def missed(self, counted: float) -> str | None:
        """Why what was counted is not what was asked for, None if it is nearly so. nan: nothing was counted."""
        asked = 1 / self.compression
        if abs(counted / asked - 1) <= NEAR:
            return None
        far = abs(self.nominal / asked - 1) > NEAR
        if math.isnan(counted):
            why = "no answer took a step that could be counted"
        elif far and self.bound:
            why = f"with the {self.bound} budget it can have, its formula gives {self.nominal:.4f}"
        elif far:
            why = f"its budget is a whole number, and the nearest gives {self.nominal:.4f} by its formula"
        else:
            how = "less" if counted < self.nominal else "more"
            why = f"its formula gives {self.nominal:.4f} at the prompts' lengths, and its steps really moved {how}"
        moved = "nothing" if math.isnan(counted) else f"{counted:.4f}"
        return f"compression={self.compression:g} asks for {asked:.4f} of dense and {moved} was counted: {why}"


def read_templates(
    methods: Mapping[str, Mapping[str, Any]], budgets: Mapping[str, list[Any]], compressions: Sequence[float]
) -> list[Template]:
    """Templates of the methods that have a budget to solve; the lists of budgets in their configs are left aside."""
    templates = []
    for name, node in methods.items():
        kind = kind_of(name, node)
        if not set(SOLVED) & set(fields(kind)):
            continue
        values = {key: value for key, value in node.items() if key not in ("_target_", *BUDGETS)}
        for given in combinations(name, kind, values | reaching(kind, budgets)):
            free = [key for key in SOLVED if key in fields(kind) and key not in given]
            if not free:
                key = next(key for key in SOLVED if key in given)
                raise UserError(
                    f"{key}={given[key]}: compression={compressions[0]:g} solves {key} for method {name}; "
                    "leave one of them out, or name methods that have another budget to solve"
                )
            templates += [Template(name, kind, tuple(given.items()), free[0], c) for c in compressions]
    return templates


def solve(
    template: Template, requests: Sequence[Request], shape: Shape, windows: Sequence[int | None], accounting: str
) -> Solved:
    """The setting whose nominal ratio on these prompts, as records report it, is nearest to the one asked for."""
    ratio = ratio_of(requests, shape, windows, accounting)
    most = shape.head_size if template.free == "r" else max(map(seen, requests))
    least = next((value for value in range(1, most + 1) if possible(template, value, shape)), most)
    try:
        template.at(least, shape)
    except (ValueError, TypeError) as error:
        raise UserError(f"method {template.name}: {error}") from None
    asked = 1 / template.compression
    budgets = range(least, most + 1)
    # the first that moves as much as is asked for, and the one before it
    place = bisect_left(budgets, asked, key=lambda value: ratio(template.at(value, shape)))
    near = budgets[max(0, place - 1) : place + 1]
    ratios = {value: ratio(template.at(value, shape)) for value in near}
    value = min(near, key=lambda value: abs(ratios[value] - asked))
    setting = Setting(template.name, template.at(value, shape))
    bound = "smallest" if value == least else "largest" if value == most else None
    return Solved(setting, template.compression, ratios[value], bound)


def possible(template: Template, value: int, shape: Shape) -> bool:
    try:
        template.at(value, shape)
    except (ValueError, TypeError):
        return False
    return True


def ratio_of(
    requests: Sequence[Request], shape: Shape, windows: Sequence[int | None], accounting: str
) -> Callable[[Method], float]:
    """What a method moves of dense over these prompts. Where S counts generated tokens, all that may come are."""
    lengths = Counter(
        (seen(request), cached(request, max(request.steps, len(request.forced)) - 1, accounting))
        for request in requests
    )

    def moved(method: Method) -> float:
        return sum(n * nominal(method.fit(fit), S, shape, windows, accounting) for (fit, S), n in lengths.items())

    dense = moved(Dense())
    return lambda method: moved(method) / dense
