"""The story of a run: check everything, find what is missing in the results, load the model, answer, record, report."""

import time
from collections.abc import Sequence
from typing import Any

from sparq_eval.evaluate.batches import Batch, answer_all, fitting
from sparq_eval.evaluate.documents import joined, whole
from sparq_eval.evaluate.plan import Cell, named, open_tasks, plan
from sparq_eval.evaluate.provenance import provenance
from sparq_eval.evaluate.settings import Settings
from sparq_eval.harness.task import Task
from sparq_eval.hf.checkpoint import open_checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import check_family, shape_of
from sparq_eval.hf.placement import find_devices, place
from sparq_eval.hf.selfcheck import self_check
from sparq_eval.hf.workers import Workers, start
from sparq_eval.progress import progress, say
from sparq_eval.request import Answer
from sparq_eval.results.record import Row


def run(settings: Settings) -> list[Cell]:
    """Measure what the results do not hold yet. Raises UserError before any weights are read if something is wrong."""
    device = find_devices(settings.device)[0]
    checkpoint = open_checkpoint(**named(settings.model))
    check_family(checkpoint.config)
    shape = shape_of(checkpoint.config)
    resolved = [setting.resolve(shape) for setting in settings.settings]
    opened = [task for name in settings.tasks for task in open_tasks(name, settings, checkpoint)]
    # groups may share a task
    tasks = {(task.name, str(task.source)): task for task in opened}
    cells = [plan(task, settings, checkpoint, resolved, device) for task in tasks.values()]
    todo = sum(len(group) * len(requests) for cell in cells for group, requests in cell.missing().items())
    total = sum(len(cell.requests) * len(cell.settings) for cell in cells)
    if not todo:
        say(f"nothing to compute: all {total:,} answers are in {settings.results_dir}/")
        for cell in cells:
            cell.say_missed()
        return cells
    count = len({setting for cell in cells for setting in cell.settings})
    placement = place(settings.device, checkpoint, settings.dtype)
    say(f"{todo:,} of {total:,} answers to compute: {count} settings, {checkpoint.name}, {placement}")
    with start(checkpoint, settings.dtype, placement, settings.accounting) as engine:
        checked = check(engine, cells) if settings.selfcheck else "off"
        for cell in cells:
            measure(cell, engine, settings, checked)
            cell.say_missed()
    return cells


def check(engine: Engine | Workers, cells: Sequence[Cell]) -> dict[str, Any]:
    """What the self-check measured. UserError where this model is not evaluated rightly here."""
    began = time.monotonic()
    methods = {setting.method: None for cell in cells for setting in cell.settings}
    found = self_check(engine, [request for cell in cells for request in cell.requests], list(methods))
    seconds, left = time.monotonic() - began, found["not_checked"]
    say(
        f"self-check in {seconds:.1f} s: logits within {found['eager']:.1g} of eager attention, within "
        f"{found['padded']:.1g} when padded" + (f"; not checked: {', '.join(left)}" if left else "")
    )
    return found


def measure(cell: Cell, engine: Engine | Workers, settings: Settings, checked: Any) -> None:
    """Answer what is missing, batch by batch; each batch is on disk before the next begins.

    checked: what the self-check found, for the records.
    """
    history = provenance(engine.placement) | {"selfcheck": checked, "config": settings.config}
    groups = cell.missing()
    effort = sum(request.effort for requests in groups.values() for request in requests)
    with progress(cell.task.name, effort, "tokens") as advance:
        for group, requests in groups.items():
            size = settings.batch_size or fitting(engine, requests, len(group))
            # in the order of their answers
            group = tuple(sorted(group, key=lambda n: cell.settings[n].prompt == "context"))
            methods, from_context = (
                [cell.settings[n].method for n in group if (cell.settings[n].prompt == "context") is late]
                for late in (False, True)
            )
            batches = answer_all(engine, requests, methods, size, from_context)
            for batch in whole(batches, requests):
                facts = history | {"batch_size": batch.size, "peak_memory": batch.peak_memory}
                for n, answers in zip(group, batch.answers, strict=True):
                    asked = cell.asked(cell.settings[n])
                    own = facts | {"requested_ratios": asked} if asked else facts
                    cell.entries[n].append(rows_of(cell.task, batch, answers), own)
                advance(sum(request.effort for request in batch.requests))


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
