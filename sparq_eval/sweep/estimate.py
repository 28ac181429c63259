"""What a sweep will cost: prefills, decode steps, memory and hours, by earlier records or by two examples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparq_eval.evaluate.batches import answer_all
from sparq_eval.evaluate.plan import Cell as Planned
from sparq_eval.evaluate.plan import Plan, look_ahead
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.hf.cache import bytes_per_example
from sparq_eval.hf.checkpoint import torch_dtype
from sparq_eval.hf.families import shape_of
from sparq_eval.hf.placement import find_devices, gib, outline, place
from sparq_eval.hf.workers import start
from sparq_eval.progress import clock
from sparq_eval.results.frames import rows_in
from sparq_eval.sweep.cells import Cell, Words, cut

MOST = 64  # examples that are batched together at most where batch_size=auto, as in a run


@dataclass(frozen=True)
class Cost:
    """Of one cell. prefills: prompts to be read. steps: tokens to be decoded, over all settings. memory: bytes, weights
    and the cache of a batch. seconds: None where nothing is known. source: what they were told by.
    """

    cell: Cell
    answers: int
    done: int
    prefills: int
    steps: int
    memory: int
    seconds: float | None
    source: str


def estimate(arguments: Sequence[str], calibrate: bool = True) -> list[Cost]:
    """Print what each cell of the command will cost, and all of them together."""
    costs = []
    for cell in cut(Words.of(arguments)):
        settings = read_settings(cell.config)
        costs.append(cost_of(cell, settings, look_ahead(settings), calibrate))
    show(costs)
    return costs


def cost_of(cell: Cell, settings: Settings, planned: Plan, calibrate: bool) -> Cost:
    answers = sum(len(each.requests) * len(each.settings) for each in planned.cells)
    left = [(group, requests) for each in planned.cells for group, requests in each.missing().items()]
    todo = sum(len(group) * len(requests) for group, requests in left)
    steps = sum(len(group) * (r.steps + len(r.forced)) for group, requests in left for r in requests)
    effort = sum(len(group) * r.effort for group, requests in left for r in requests)
    pace, source = recorded(planned.cells) if todo else (0.0, "all is there")
    if pace is None and calibrate:
        pace, source = calibrated(planned, settings), "two examples"
    return Cost(
        cell,
        answers,
        answers - todo,
        sum(len(requests) for _, requests in left),
        steps,
        memory(planned, settings),
        None if pace is None else pace * effort,
        source,
    )


def recorded(cells: Sequence[Planned]) -> tuple[float | None, str]:
    """Seconds for each token of effort and setting in these records, or in others of the same model and task."""
    for folders, source in ((own(cells), "these records"), (siblings(cells), "records of this model and task")):
        rows = [row for folder in folders for row in rows_in(folder)]
        tokens = sum(row["prompt_tokens"] + row["generated_tokens"] for row in rows)
        if tokens:
            return sum(row["seconds"] for row in rows) / tokens, source
    return None, "nothing known"


def own(cells: Sequence[Planned]) -> list[Path]:
    return [entry.path for each in cells for entry in each.entries]


def siblings(cells: Sequence[Planned]) -> list[Path]:
    """Folders of records beside these: other settings, or the same under other conditions."""
    return [path.parent for folder in {path.parent for path in own(cells)} for path in folder.glob("*/samples.jsonl")]


def calibrated(planned: Plan, settings: Settings) -> float | None:
    """Seconds for each token of effort and setting when the longest and the shortest example of each task are answered
    once more after a first time that warms up. Nothing is recorded.
    """
    where = place(settings.device, planned.checkpoint, settings.dtype)
    seconds = tokens = 0.0
    with start(planned.checkpoint, settings.dtype, where, settings.accounting) as engine:
        for cell in planned.cells:
            ordered = sorted(cell.requests, key=lambda request: request.effort)
            two = [replace(request, index=n, part=0) for n, request in enumerate((ordered[0], ordered[-1]))]
            methods = [setting.method for setting in cell.settings]
            for _ in range(2):
                began = time.monotonic()
                list(answer_all(engine, two, methods, 2))
                took = time.monotonic() - began
            seconds, tokens = seconds + took, tokens + len(methods) * sum(request.effort for request in two)
    return seconds / tokens if tokens else None


def memory(planned: Plan, settings: Settings) -> int:
    """Bytes of the weights and of the cache of one batch, at most."""
    config = planned.checkpoint.config
    device = find_devices(settings.device)[0]
    itemsize, shape = torch_dtype(settings.dtype, str(device), config).itemsize, shape_of(config)
    layers = config.num_hidden_layers
    most = 0
    for cell in planned.cells:
        room = max(max(request.steps, len(request.forced)) for request in cell.requests)
        longest = max(len(request.prompt) for request in cell.requests)
        sizes = {"prompt": longest, "room": room, "settings": len(cell.settings)}
        each = bytes_per_example(layers, shape.heads, shape.head_size, itemsize, **sizes)
        most = max(most, each * min(settings.batch_size or (MOST if device.type == "cuda" else 8), len(cell.requests)))
    model = outline(planned.checkpoint, torch_dtype(settings.dtype, str(device), config))
    return sum(weight.numel() for weight in model.parameters()) * itemsize + most


def show(costs: Sequence[Cost]) -> None:
    """A table on standard output, and the whole in a sentence."""
    names = ("cell", "model", "task", "answers", "there", "prefills", "decode steps", "memory", "time", "known by")
    table = Table(*names, box=None, pad_edge=False)
    for each in costs:
        words = [str(each.cell.number), each.cell.model, each.cell.task]
        words += [f"{number:,}" for number in (each.answers, each.done, each.prefills, each.steps)]
        words += [gib(each.memory), "?" if each.seconds is None else clock(each.seconds), each.source]
        table.add_row(*map(Text, words))
    console = Console()
    # a pipe gets whole lines, whatever the width of the terminal that nobody looks at
    console = console if console.is_terminal else Console(width=200)
    console.print(table)
    known = [each.seconds for each in costs if each.seconds is not None]
    total = f"{sum(known) / 3600:.2f} hours one after another" if known else "time not known"
    left_out = f" ({len(costs) - len(known)} cells not counted)" if known and len(known) < len(costs) else ""
    longest = f", {max(known) / 3600:.2f} if all run at once" if len(known) > 1 else ""
    console.print(
        f"{len(costs)} cells, {sum(each.prefills for each in costs):,} prefills, "
        f"{sum(each.steps for each in costs):,} decode steps at most, {gib(max(each.memory for each in costs))} at most"
        f": {total}{longest}{left_out}",
        soft_wrap=True,
        highlight=False,
    )
