"""The story of an analysis: find the prompts, load the model, pass each prompt through once, record what was seen."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from sparq_eval.analyse.gather import Choice, Gathered
from sparq_eval.errors import UserError
from sparq_eval.evaluate.plan import named, open_tasks
from sparq_eval.evaluate.provenance import commit, device_name, peak_memory, versions
from sparq_eval.evaluate.settings import Settings, whole_numbers
from sparq_eval.harness.task import Task
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import check_family, context_length, layer_windows, shape_of
from sparq_eval.hf.observe import observe
from sparq_eval.hf.placement import find_devices, place
from sparq_eval.hf.selfcheck import self_check
from sparq_eval.hf.workers import start
from sparq_eval.methods import Shape, SparQ
from sparq_eval.progress import progress, say
from sparq_eval.request import Request
from sparq_eval.results.analysis import Analysis, compact

TOP = 32  # positions whose mass is summed, as in the paper
KS = (32, 64, 128, 256)
COVERED = 128  # the k of the coverage
TAIL = 1024  # the last positions over which keys and values are correlated, as far as all prompts have them


def run(settings: Settings, rs: Any = None, ks: Any = None) -> Iterator[Path]:
    """Analyse a model on each of the tasks, and write a record of each. rs, ks: budgets of the approximations.

    Raises UserError before any weights are read if something is wrong.
    """
    devices = find_devices(settings.device)
    if len(devices) > 1 and settings.device != "auto":
        raise UserError(f"device={settings.device}: an analysis runs on one device; name one, such as cuda:0")
    checkpoint = open_checkpoint(**named(settings.model))
    check_family(checkpoint.config)
    shape = shape_of(checkpoint.config)
    opened = [task for name in settings.tasks for task in open_tasks(name, settings, checkpoint)]
    prompts = [(task, choose(task, settings.samples, checkpoint)) for task in opened]
    windows = layer_windows(checkpoint.config)
    choices = [choice(shape, rs, ks, requests, windows) for _, requests in prompts]
    placement = place(str(devices[0]), checkpoint, settings.dtype)
    count = sum(len(requests) for _, requests in prompts)
    say(f"{count:,} prompts to look at: {checkpoint.name}, {placement}")
    with start(checkpoint, settings.dtype, placement, settings.accounting) as engine:
        assert isinstance(engine, Engine)
        every = [request for _, requests in prompts for request in requests]
        checked = self_check(engine, every, []) if settings.selfcheck else "off"
        for (task, requests), chosen in zip(prompts, choices, strict=True):
            began = time.monotonic()
            found = gather(engine, task, requests, chosen, shape)
            facts = {"seconds": round(time.monotonic() - began, 1), "peak_memory": peak_memory(placement.devices)}
            protocol = {"truncate": settings.truncate, "selfcheck": checked, **facts}
            yield record(found, checkpoint, engine, task, requests, protocol).save(settings.results_dir)


def choose(task: Task, samples: int, checkpoint: Checkpoint) -> list[Request]:
    """The task's prompts, one of each example. UserError if one is too long for the model, or there is none."""
    requests = [request for request in task.requests(samples) if not request.part]
    context = context_length(checkpoint.config)
    for request in requests:
        if (length := len(request.prompt)) > context:
            raise UserError(
                f"task={task.name}: example {request.id} has {length} tokens, more than the context of "
                f"{checkpoint.name}, {context}; truncate=left cuts the beginning of such prompts"
            )
        if length < 2:
            raise UserError(f"task={task.name}: example {request.id} has no prompt to look at; choose another task")
    return requests


def choice(
    shape: Shape, rs: Any, ks: Any, requests: Sequence[Request], windows: Sequence[int | None] = (None,)
) -> Choice:
    """Budgets as whole numbers: r by default powers of two below the head size; UserError for those that cannot be.
    windows: of the layers, None where one sees everything.
    """
    powers = [2**n for n in range(2, 12) if 2**n < shape.head_size] or [1]
    given = powers if rs is None else rs if isinstance(rs, list) else [rs]
    try:
        resolved = {int(SparQ(r=r).resolve(shape).r) for r in given}
    except ValueError as error:
        raise UserError(f"{error}") from None
    counted = sorted(set(KS if ks is None else whole_numbers("k", ks)))
    shortest = min(len(request.prompt) for request in requests)
    if counted[0] >= shortest:
        raise UserError(f"k={counted[0]}: the shortest prompt has {shortest} tokens, so nothing would be left out")
    widest = max(shortest if window is None else window for window in windows)
    if counted[0] >= widest:
        raise UserError(f"k={counted[0]}: no layer sees more than {widest} tokens, so nothing would be left out")
    fitting = [k for k in counted if k < min(shortest, widest)]
    near = COVERED if COVERED in fitting else fitting[-1]
    return Choice(TOP, tuple(sorted(resolved)), tuple(counted), near, min(TAIL, shortest))


def gather(engine: Engine, task: Task, requests: Sequence[Request], chosen: Choice, shape: Shape) -> Gathered:
    found = Gathered(chosen, shape, engine.layers)
    effort = sum(len(request.prompt) for request in requests)
    with progress(task.name, effort, "tokens") as advance, torch.inference_mode():
        for request in requests:
            observe(engine, request.prompt, found.see)
            found.close()
            advance(len(request.prompt))
    return found


def record(
    found: Gathered,
    checkpoint: Checkpoint,
    engine: Engine,
    task: Task,
    requests: Sequence[Request],
    protocol: dict[str, Any],
) -> Analysis:
    lengths = [len(request.prompt) for request in requests]
    truncated = sum(request.truncated for request in requests)
    model = {"name": checkpoint.name, **checkpoint.identity, "layers": found.layers, **asdict(found.shape)}
    dtype = str(engine.model.dtype).removeprefix("torch.")
    return Analysis(
        model=compact(model),
        task=task.name,
        data=compact(dict(task.source)),
        protocol=compact({**asdict(found.choice), "dtype": dtype, **protocol}),
        prompts={
            "count": len(lengths),
            "shortest": min(lengths),
            "longest": max(lengths),
            "mean": fmean(lengths),
            "truncated": truncated,
        },
        machine={
            "device": device_name(engine.device),
            "type": engine.device.type,
            "threads": torch.get_num_threads(),
        },
        versions=versions(),
        git=commit() or "",
        command=" ".join(["python -m sparq_eval.analyse", *sys.argv[1:]]),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        statistics=compact(found.statistics()),
    )
