"""What a run is made of, found before any weights are read: its tasks, their requests, the records that are missing."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sparq_eval.errors import UserError
from sparq_eval.evaluate.backend import Kernels
from sparq_eval.evaluate.compression import Solved, solve
from sparq_eval.evaluate.documents import note_prefilled
from sparq_eval.evaluate.expand import Setting
from sparq_eval.evaluate.provenance import versions
from sparq_eval.evaluate.settings import Settings
from sparq_eval.harness.library import LIBRARY, open_library
from sparq_eval.harness.lm import EngineLM
from sparq_eval.harness.task import Data, Protocol, Task, open_task
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint, torch_dtype
from sparq_eval.hf.families import check_family, context_length, layer_windows, shape_of
from sparq_eval.hf.placement import find_devices
from sparq_eval.progress import say
from sparq_eval.request import Request
from sparq_eval.results.record import Identity
from sparq_eval.results.store import Entry, Store
from sparq_eval.results.summary import summarise


@dataclass(frozen=True)
class Cell:
    """One task with its settings and the places of their records. solved: where settings come from a compression."""

    task: Task
    requests: Sequence[Request]
    settings: Sequence[Setting]
    entries: Sequence[Entry]
    solved: Sequence[Solved] = ()

    def missing(self) -> dict[tuple[int, ...], list[Request]]:
        """Requests by the settings (places in `settings`) that have not answered them yet."""
        done = [entry.indices() for entry in self.entries]
        groups = defaultdict(list)
        for request in self.requests:
            if lacking := tuple(n for n, indices in enumerate(done) if request.index not in indices):
                groups[lacking].append(request)
        return groups

    def asked(self, setting: Setting) -> list[float]:
        """The shares of dense that the run asked this setting for."""
        return [1 / solved.compression for solved in self.solved if solved.setting == setting]

    def say_missed(self) -> None:
        """Name the settings whose counted traffic, over the run's examples, is not nearly what was asked for."""
        indices = {request.index for request in self.requests}
        for solved in self.solved:
            entry = self.entries[self.settings.index(solved.setting)]
            rows = [row for row in entry.parsed().rows if row["index"] in indices]
            if why := solved.missed(summarise(rows)["counted_ratio"]):
                say(f"{self.task.name}, {solved.setting}: {why}")


@dataclass(frozen=True)
class Plan:
    """A model, its weights not read, and what it is to be asked."""

    checkpoint: Checkpoint
    cells: list[Cell]
    kernels: Kernels


def look_ahead(settings: Settings) -> Plan:
    """All that can be known of a run before weights are read. UserError if something is wrong."""
    device = find_devices(settings.device)[0]
    checkpoint = open_checkpoint(**named(settings.model))
    check_family(checkpoint.config)
    shape = shape_of(checkpoint.config)
    resolved = [setting.resolve(shape) for setting in settings.settings]
    opened = [task for name in settings.tasks for task in open_tasks(name, settings, checkpoint)]
    # groups may share a task
    tasks = {(task.name, str(task.source)): task for task in opened}
    kernels = Kernels(settings.backend, device, shape)
    if not settings.templates:
        kernels.check(setting.method for setting in resolved)
    cells = [plan(task, settings, checkpoint, resolved, device, kernels) for task in tasks.values()]
    return Plan(checkpoint, cells, kernels)


def named(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model given by its path alone goes by the path's last part, so that two of them do not share a name."""
    if model["name"] == "any" and model["path"]:
        return {**model, "name": Path(model["path"]).name.removesuffix(".gguf")}
    return dict(model)


def open_tasks(name: str, settings: Settings, checkpoint: Checkpoint) -> list[Task]:
    """The task of this name; several where it is a group of lm-eval's."""
    context = context_length(checkpoint.config)
    if name.startswith(LIBRARY):
        if settings.stop != "task":
            raise UserError(f"stop={settings.stop}: answers of task={name} end as lm-eval's task says; use stop=task")
        whole_prompts = settings.truncate == "refuse"
        lm = EngineLM(checkpoint.tokenizer, None, context_length=context, ends=checkpoint.ends, whole=whole_prompts)
        names = {"pretrained": checkpoint.tokenizer_from, "tokenizer": checkpoint.tokenizer_from}
        return open_library(name, lm, settings.include_path, names)
    protocol = Protocol(
        stop=settings.stop,
        truncate=settings.truncate,
        needle_lengths=lengths_within(context) if settings.needle_lengths is None else tuple(settings.needle_lengths),
        needle_depths=settings.needle_depths,
    )
    data = find_data(name, settings, checkpoint)
    tokenizer = checkpoint.tokenizer
    return [open_task(name, data, tokenizer, model_name=checkpoint.name, context_length=context, protocol=protocol)]


def plan(
    task: Task,
    settings: Settings,
    checkpoint: Checkpoint,
    resolved: Sequence[Setting],
    device: torch.device,
    kernels: Kernels,
) -> Cell:
    """A task's requests and records, checked against the model's context."""
    context = context_length(checkpoint.config)
    requests = task.requests(settings.samples)
    for request in requests:
        # the last token is never fed
        if (length := len(request.prompt) + max(request.steps, len(request.forced)) - 1) > context:
            raise UserError(
                f"task={task.name}: example {request.id} needs {length} tokens, more than the context of "
                f"{checkpoint.name}, {context}; truncate=left cuts the beginning of such prompts"
            )
    if "context" in settings.prompts and not all(0 < r.context < len(r.prompt) and not r.forced for r in requests):
        raise UserError(
            f"prompt=context: task={task.name} has no question to be generated from behind a context; use prompt=whole"
        )
    note_prefilled(f"task={task.name}", requests)
    itemsize = torch_dtype(settings.dtype, str(device), checkpoint.config).itemsize
    shape, windows = shape_of(checkpoint.config, itemsize), layer_windows(checkpoint.config)
    solved = [solve(template, requests, shape, windows, settings.accounting) for template in settings.templates]
    for compression in dict.fromkeys(one.compression for one in solved):
        found = ", ".join(str(one.setting) for one in solved if one.compression == compression)
        say(f"{task.name}, compression={compression:g}: {found}")
    own = [replace(setting, tasks=None) for setting in resolved if setting.tasks is None or task.name in setting.tasks]
    solved = [replace(one, setting=replace(one.setting, prompt=how)) for how in settings.prompts for one in solved]
    own = [replace(setting, prompt=how) for how in settings.prompts for setting in own]
    chosen = list(dict.fromkeys([*own, *(one.setting for one in solved)]))
    store = Store(settings.results_dir)
    entries = [
        store.open(
            identity_of(setting, task, settings, checkpoint, device, kernels),
            metric=task.metric,
            higher_is_better=task.higher_is_better,
        )
        for setting in chosen
    ]
    return Cell(task, requests, chosen, entries, solved)


def lengths_within(context: int) -> tuple[int, ...]:
    """The paper's lengths of the needle task, as far as the model's context goes."""
    return tuple(whole - 128 for whole in range(1024, min(context, 32768) + 1, 1024))


def identity_of(
    setting: Setting,
    task: Task,
    settings: Settings,
    checkpoint: Checkpoint,
    device: torch.device,
    kernels: Kernels,
) -> Identity:
    """All that an answer depends on."""
    dtype = torch_dtype(settings.dtype, str(device), checkpoint.config)
    # where torch answers nothing is said, as in records of before there were kernels
    backend = {"backend": "kernel"} if kernels(setting.method) else {}
    return Identity(
        model={"name": checkpoint.name, **checkpoint.identity},
        task=task.name,
        data=task.source,
        method=setting.name,
        settings=setting.method.settings,
        protocol={
            "stop": settings.stop,
            "prompt": setting.prompt,
            "truncate": settings.truncate,
            "accounting": settings.accounting,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            **backend,
        },
        versions=versions(),
    )


BUNDLED_TEXT = ("wikitext_bpc", "repetition", "needle")


def find_data(task: str, settings: Settings, checkpoint: Checkpoint) -> Data:
    """Where a task's text comes from; `auto` is bundled text for bundled models where there is some, else the hub."""
    source: str = settings.data["source"]
    if source == "auto":
        bundled = checkpoint.identity["source"] == "package" and task in BUNDLED_TEXT
        source = "bundled" if bundled else "hub"
    root = settings.data["root"]
    return Data(source, Path(root).expanduser() if root else None)
