"""The story of a run: check everything, find what is missing in the results, load the model, answer, record, report."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.evaluate.backend import Kernels
from sparq_eval.evaluate.batches import Batch, answer_all, beside, fitting, in_order
from sparq_eval.evaluate.documents import joined, whole
from sparq_eval.evaluate.isolate import Group, apart, checked
from sparq_eval.evaluate.plan import Cell, Plan, look_ahead
from sparq_eval.evaluate.provenance import provenance
from sparq_eval.evaluate.settings import Settings
from sparq_eval.harness.task import Task
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.placement import place
from sparq_eval.hf.speed import decode_speed, same_answers
from sparq_eval.hf.workers import Workers, start
from sparq_eval.progress import progress, say
from sparq_eval.request import Answer, Request
from sparq_eval.results.prompts import Prompt, keep_prompts
from sparq_eval.results.record import Row


def run(settings: Settings) -> list[Cell]:
    """Measure what the results do not hold yet. Raises UserError before any weights are read if something is wrong."""
    return carry_out(look_ahead(settings), settings)


def carry_out(planned: Plan, settings: Settings) -> list[Cell]:
    """Answer and record what is missing. A setting that cannot be answered has a failed record; the others go on."""
    cells = planned.cells
    todo = sum(len(group) * len(requests) for cell in cells for group, requests in cell.missing().items())
    total = sum(len(cell.requests) * len(cell.settings) for cell in cells)
    if not todo:
        say(f"nothing to compute: all {total:,} answers are in {settings.results_dir}/")
        for cell in cells:
            conclude(cell)
        return cells
    checkpoint = planned.checkpoint
    count = len({setting for cell in cells for setting in cell.settings})
    placement = place(settings.device, checkpoint, settings.dtype)
    say(f"{todo:,} of {total:,} answers to compute: {count} settings, {checkpoint.name}, {placement}")
    with start(checkpoint, settings.dtype, placement, settings.accounting, planned.kernels) as engine:
        checked = check(engine, cells) if settings.selfcheck else "off"
        for cell in cells:
            measure(cell, engine, settings, checked)
            time_settings(cell, engine, settings, planned.kernels)
            conclude(cell)
    see_kept(cells)
    return cells


def see_kept(cells: Sequence[Cell]) -> None:
    """UserError where rows of this run are no more: an append sees that of its own record, and no task of another's."""
    entries = [entry for cell in cells for entry in cell.entries]
    gone = {entry.path: rows for entry in entries if (rows := entry.seen - len(entry.parsed().rows)) > 0}
    if gone:
        more = f" and {len(gone) - 1} more records" if len(gone) > 1 else ""
        raise UserError(
            f"{next(iter(gone))}{more}: {sum(gone.values())} rows that were written are gone: the folder was deleted "
            "or changed while the run went on; the same command again measures what is missing"
        )


def conclude(cell: Cell) -> None:
    """Say what went otherwise than asked: traffic that was missed, answers that are not numbers. Prompts that rows name
    and that were set aside as damaged are kept again.
    """
    cell.say_missed()
    named = set[str]()
    for entry in cell.entries:
        rows = entry.parsed().rows
        named |= {row["prompt"] for row in rows}
        if lost := sum(not row["finite"] for row in rows):
            entry.fail(f"{lost} of {len(rows)} answers met logits that are not finite")
    prompts = [prompt_of(cell.task, request) for request in cell.requests if not request.part]
    for folder in {entry.path.parent for entry in cell.entries}:
        keep_prompts(folder, [prompt for prompt in prompts if prompt.name in named])


def check(engine: Engine | Workers, cells: Sequence[Cell]) -> dict[str, Any]:
    """What the self-check measured. UserError where this model is not evaluated rightly here."""
    began = time.monotonic()
    methods = {setting.method: None for cell in cells for setting in cell.settings}
    found = checked(engine, [request for cell in cells for request in cell.requests], list(methods))
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
    groups = joined_up(cell.missing(), settings.batch_size or 64)
    effort = sum(request.effort for requests in groups.values() for request in requests)
    with progress(cell.task.name, effort, "tokens") as advance:
        for group, requests in groups.items():
            # in the order of their answers
            group = tuple(sorted(group, key=lambda n: cell.settings[n].prompt == "context"))
            ask = partial(answers_of, cell, engine, settings.batch_size, requests)
            for part, batch in apart(engine, group, ask, partial(fail, cell, history)):
                prompts = {
                    request.index: prompt_of(cell.task, request) for request in batch.requests if not request.part
                }
                keep_prompts(cell.entries[part[0]].path.parent, prompts.values())
                names = {index: prompt.name for index, prompt in prompts.items()}
                facts = history | {"batch_size": batch.size, "peak_memory": batch.peak_memory}
                for n, answers in zip(part, batch.answers, strict=True):
                    asked = cell.asked(cell.settings[n])
                    own = facts | {"requested_ratios": asked} if asked else facts
                    cell.entries[n].append(rows_of(cell.task, batch, answers, names), own)
                advance(sum(request.effort for request in batch.requests) * len(part) / len(group))


def time_settings(cell: Cell, engine: Engine | Workers, settings: Settings, kernels: Kernels) -> None:
    """Note in the records how long a token takes with each setting alone, and what its kernel changes of its answers.

    One batch of the longest prompts is decoded for it.
    """
    fast = [bool(kernels(setting.method)) for setting in cell.settings]
    wanted = any(fast) if settings.speed is None else settings.speed
    missing = [n for n, entry in enumerate(cell.entries) if "decoding" not in entry.record() and not entry.failure]
    if not wanted or not missing:
        return
    methods = [cell.settings[n].method for n in missing]
    (fitted, _), requests = next(iter(in_order(cell.requests, methods, ()).items()))
    methods = list(fitted)
    requests = requests[: settings.batch_size or fitting(engine, requests, methods)]
    say(f"{cell.task.name}: timing {len(methods)} settings, {len(requests)} prompts at a time")
    speeds = decode_speed(engine, requests, methods)
    generated = not requests[0].forced
    same = same_answers(engine, requests, methods) if generated and any(fast) else [0] * len(methods)
    for n, speed, equal in zip(missing, speeds, same, strict=True):
        found = {"backend": "kernel" if fast[n] else "torch", **asdict(speed)}
        if fast[n] and generated:
            found["as_torch"] = {"same": equal, "of": len(requests)}
        cell.entries[n].note("decoding", found)


def joined_up(groups: dict[Group, list[Request]], few: int) -> dict[Group, list[Request]]:
    """Examples that an interruption left answered by some settings only go with the rest, if they are a batch at most:
    answering them again costs less than a prefill for each such group, and all comes in its usual order.
    """
    groups = dict(groups)
    for group in sorted(groups, key=len):
        wider = next((other for other in groups if set(group) < set(other)), None)
        if wider and len({request.index for request in groups[group]}) <= few:
            groups[wider] = groups.pop(group) + groups[wider]
    return groups


def answers_of(
    cell: Cell, engine: Engine | Workers, batch_size: int | None, requests: Sequence[Request], group: Group
) -> Iterator[Batch]:
    """Answers of these settings to those of the requests that one of them has not answered."""
    there = set.intersection(*(cell.entries[n].indices() for n in group))
    requests = [request for request in requests if request.index not in there]
    if not requests:
        return
    methods, from_context = (
        [cell.settings[n].method for n in group if (cell.settings[n].prompt == "context") is late]
        for late in (False, True)
    )
    size = batch_size or before(cell, group, engine) or fitting(engine, requests, [*methods, *from_context])
    near = beside({request.index for request in requests}, cell.requests, methods, size, from_context)
    yield from whole(answer_all(engine, near, methods, size, from_context), requests)


def before(cell: Cell, group: Group, engine: Engine | Workers) -> int | None:
    """The batch size of a run on this placement that is gone on with: memory that is free now may suggest another."""
    runs = [run for n in group for run in cell.entries[n].record()["runs"] if run.get("samples")]
    sizes = [run.get("batch_size") for run in runs if run.get("placement") == str(engine.placement)]
    return sizes[-1] if sizes and isinstance(sizes[-1], int) else None


def fail(cell: Cell, history: dict[str, Any], n: int, why: str) -> None:
    say(f"{cell.task.name}, {cell.settings[n]}: failed: {why}")
    cell.entries[n].fail(why, history)


def rows_of(task: Task, batch: Batch, answers: Sequence[Answer], names: Mapping[int, str]) -> list[Row]:
    """Scored rows; a row's seconds are its even share of the batch. names: of the examples' prompts."""
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
            cluster=request.cluster,
            prompt=names[answer.index],
            token_lengths=" ".join(map(str, answer.token_lengths)),
        )
        for request, answer in examples
    ]


def prompt_of(task: Task, request: Request) -> Prompt:
    return Prompt(request.text, task.references(request.index))
