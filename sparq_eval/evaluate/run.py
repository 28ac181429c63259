"""The story of a run: check everything, find what is missing in the results, load the model, answer, record, report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import Batch, answer_all, fitting_batch
from sparq_eval.evaluate.documents import joined, note_prefilled, whole
from sparq_eval.evaluate.provenance import peak_memory, provenance, versions
from sparq_eval.evaluate.settings import Setting, Settings
from sparq_eval.harness.library import LIBRARY, open_library
from sparq_eval.harness.lm import EngineLM
from sparq_eval.harness.task import Data, Protocol, Task, open_task
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint, torch_dtype
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.seam import NAME, check_family, shape_of
from sparq_eval.progress import progress, say
from sparq_eval.request import Answer, Request
from sparq_eval.results.record import Identity, Row
from sparq_eval.results.store import Entry, Store


@dataclass(frozen=True)
class Cell:
    """One task with the settings that still lack some of its examples, and the places of their records."""

    task: Task
    requests: Sequence[Request]
    settings: Sequence[Setting]
    entries: Sequence[Entry]

    def missing(self) -> dict[tuple[int, ...], list[Request]]:
        """Requests by the settings (places in `settings`) that have not answered them yet."""
        done = [entry.indices() for entry in self.entries]
        groups = defaultdict(list)
        for request in self.requests:
            if lacking := tuple(n for n, indices in enumerate(done) if request.index not in indices):
                groups[lacking].append(request)
        return groups


def run(settings: Settings) -> list[Cell]:
    """Measure what the results do not hold yet. Raises UserError before any weights are read if something is wrong."""
    device = find_device(settings.device)
    checkpoint = open_checkpoint(**named(settings.model))
    check_family(checkpoint.config)
    shape = shape_of(checkpoint.config)
    resolved = list(dict.fromkeys(setting.resolve(shape) for setting in settings.settings))
    opened = [task for name in settings.tasks for task in open_tasks(name, settings, checkpoint)]
    # groups may share a task
    tasks = {(task.name, str(task.source)): task for task in opened}
    cells = [plan(task, settings, checkpoint, resolved, device) for task in tasks.values()]
    todo = sum(len(group) * len(requests) for cell in cells for group, requests in cell.missing().items())
    total = sum(len(cell.requests) * len(cell.settings) for cell in cells)
    if not todo:
        say(f"nothing to compute: all {total:,} answers are in {settings.results_dir}/")
        return cells
    say(f"{todo:,} of {total:,} answers to compute: {len(resolved)} settings, {checkpoint.name} on {device}")
    engine = Engine(checkpoint.load(settings.dtype, str(device), attention=NAME), checkpoint.tokenizer)
    for cell in cells:
        measure(cell, engine, settings)
    return cells


def named(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model given by its path alone goes by the path's last part, so that two of them do not share a name."""
    if model["name"] == "any" and model["path"]:
        return {**model, "name": Path(model["path"]).name.removesuffix(".gguf")}
    return dict(model)


def open_tasks(name: str, settings: Settings, checkpoint: Checkpoint) -> list[Task]:
    """The task of this name; several where it is a group of lm-eval's."""
    context = checkpoint.config.max_position_embeddings
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
        needle_lengths=tuple(settings.needle_lengths),
        needle_depths=settings.needle_depths,
    )
    data = find_data(name, settings, checkpoint)
    tokenizer = checkpoint.tokenizer
    return [open_task(name, data, tokenizer, model_name=checkpoint.name, context_length=context, protocol=protocol)]


def plan(
    task: Task, settings: Settings, checkpoint: Checkpoint, resolved: Sequence[Setting], device: torch.device
) -> Cell:
    """A task's requests and records, checked against the model's context."""
    context = checkpoint.config.max_position_embeddings
    requests = task.requests(settings.samples)
    for request in requests:
        # the last token is never fed
        if (length := len(request.prompt) + max(request.steps, len(request.forced)) - 1) > context:
            raise UserError(
                f"task={task.name}: example {request.id} needs {length} tokens, more than the context of "
                f"{checkpoint.name}, {context}; truncate=left cuts the beginning of such prompts"
            )
    note_prefilled(f"task={task.name}", requests)
    store = Store(settings.results_dir)
    entries = [
        store.open(
            identity_of(setting, task, settings, checkpoint, device),
            metric=task.metric,
            higher_is_better=task.higher_is_better,
        )
        for setting in resolved
    ]
    return Cell(task, requests, resolved, entries)


def identity_of(
    setting: Setting, task: Task, settings: Settings, checkpoint: Checkpoint, device: torch.device
) -> Identity:
    """All that an answer depends on."""
    dtype = torch_dtype(settings.dtype, str(device), checkpoint.config)
    return Identity(
        model={"name": checkpoint.name, **checkpoint.identity},
        task=task.name,
        data=task.source,
        method=setting.name,
        settings=setting.method.settings,
        protocol={
            "stop": settings.stop,
            "prompt": "whole",
            "truncate": settings.truncate,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
        },
        versions=versions(),
    )


def measure(cell: Cell, engine: Engine, settings: Settings) -> None:
    """Answer what is missing, batch by batch; each batch is on disk before the next begins."""
    history = provenance(engine.device) | {"config": settings.config}
    groups = cell.missing()
    effort = {id(r): len(r.prompt) + r.steps + len(r.forced) for requests in groups.values() for r in requests}
    with progress(cell.task.name, sum(effort.values()), "tokens") as advance:
        for group, requests in groups.items():
            chosen = [cell.settings[n] for n in group]
            size = settings.batch_size or fitting(engine, requests, len(chosen))
            batches = answer_all(engine, requests, [setting.method for setting in chosen], size)
            for batch in whole(batches, requests):
                facts = history | {"batch_size": batch.size, "peak_memory": peak_memory(engine.device)}
                for n, answers in zip(group, batch.answers, strict=True):
                    cell.entries[n].append(rows_of(cell.task, batch, answers), facts)
                advance(sum(effort[id(request)] for request in batch.requests))


def rows_of(task: Task, batch: Batch, answers: Sequence[Answer]) -> list[Row]:
    """Scored rows; a row's seconds are its even share of the batch."""
    scores = task.score(answers)
    examples = list(joined(task, batch.requests, answers))
    share = batch.seconds / (len(examples) * len(batch.answers))
    return [
        Row(
            index=answer.index,
            id=request.id,
            prompt_tokens=request.prompt_tokens,
            generated_tokens=len(answer.tokens),
            output=answer.output,
            score=scores[answer.index],
            nominal=answer.traffic.nominal,
            nominal_dense=answer.traffic.nominal_dense,
            counted=answer.traffic.counted,
            counted_dense=answer.traffic.counted_dense,
            decode_steps=answer.certificate.steps,
            calls=answer.certificate.calls,
            sparse_steps=answer.certificate.sparse_steps,
            layers_active=answer.certificate.layers_active,
            truncated=request.truncated,
            finite=answer.finite,
            seconds=share,
        )
        for request, answer in examples
    ]


def fitting(engine: Engine, requests: Sequence[Request], settings: int) -> int:
    config = engine.model.config.get_text_config()
    layers, itemsize = config.num_hidden_layers, engine.model.dtype.itemsize
    return fitting_batch(requests, settings, shape_of(config), layers, itemsize, engine.device)


def find_device(name: str) -> torch.device:
    """The device that a name means. Raises UserError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: torch sees {torch.cuda.device_count()} CUDA devices here; try device=cpu")
    return device


BUNDLED_TEXT = ("wikitext_bpc", "repetition", "needle")


def find_data(task: str, settings: Settings, checkpoint: Checkpoint) -> Data:
    """Where a task's text comes from; `auto` is bundled text for bundled models where there is some, else the hub."""
    source: str = settings.data["source"]
    if source == "auto":
        bundled = checkpoint.identity["source"] == "package" and task in BUNDLED_TEXT
        source = "bundled" if bundled else "hub"
    root = settings.data["root"]
    return Data(source, Path(root).expanduser() if root else None)
