"""From answers to examples: the batches of a run are of requests, and an example may have several."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sparq_eval.evaluate.batches import Batch
from sparq_eval.harness.task import Task, by_example
from sparq_eval.progress import say
from sparq_eval.request import Answer, Certificate, Request, Traffic


def whole(batches: Iterable[Batch], requests: Sequence[Request]) -> Iterator[Batch]:
    """The batches again, each with the requests of those examples whose last request was answered in it.

    requests: of the examples that are wanted; others in a batch are left out. An example's seconds are counted when it
    is whole.
    """
    left = {index: len(parts) for index, parts in by_example(requests).items()}
    waiting: list[tuple[Request, tuple[Answer, ...], float]] = []
    for batch in batches:
        share = batch.seconds / len(batch.requests)
        by_request = zip(*batch.answers, strict=True)
        answered = [(request, each, share) for request, each in zip(batch.requests, by_request, strict=True)]
        answered = [one for one in answered if one[0].index in left]
        waiting += answered
        for request, _, _ in answered:
            left[request.index] -= 1
        done = [one for one in waiting if not left[one[0].index]]
        waiting = [one for one in waiting if left[one[0].index]]
        if done:
            chosen, answers, seconds = zip(*done, strict=True)
            yield Batch(chosen, list(zip(*answers, strict=True)), math.fsum(seconds), batch.size, batch.peak_memory)


def note_prefilled(what: str, requests: Sequence[Request]) -> None:
    """Say so where no method can make a difference: a text's first token is predicted by the dense prefill."""
    if requests and all(len(request.forced) == 1 for request in requests):
        say(f"note: {what}: each text to score is a single token, which the dense prefill predicts: all methods agree")


def joined(task: Task, requests: Sequence[Request], answers: Sequence[Answer]) -> Iterator[tuple[Request, Answer]]:
    """Each example's request and answer, put together from those of its parts."""
    parts = by_example(requests)
    for index, each in by_example(answers).items():
        yield join_requests(parts[index], each), join_answers(each, task.output(each))


def join_requests(parts: Sequence[Request], answers: Sequence[Answer]) -> Request:
    """An example's request for its record: its prompt is as long as it was at the mean decode step of its parts."""
    if len(parts) == 1:
        return parts[0]
    length = mean([part.prompt_tokens for part in parts], answers)
    return replace(parts[0], prompt_tokens=round(length), truncated=any(part.truncated for part in parts))


def join_answers(parts: Sequence[Answer], output: str) -> Answer:
    """An example's answer from the answers to its requests.

    Tokens and steps add up. Traffic is per generated token, so it is the mean over all decode steps: that of each part,
    weighted by its steps (evenly where none of them took any, as when each option is a single token that the prefill
    predicts). What is counted is not a number only where no part took a step. A method was active in as many layers as
    in the part where it was in most.
    """
    if len(parts) == 1:
        return replace(parts[0], output=output)
    stepped = [part for part in parts if part.certificate.steps]
    return replace(
        parts[0],
        tokens=tuple(token for part in parts for token in part.tokens),
        output=output,
        traffic=Traffic(
            nominal=mean([part.traffic.nominal for part in parts], parts),
            nominal_dense=mean([part.traffic.nominal_dense for part in parts], parts),
            counted=mean([part.traffic.counted for part in stepped], stepped),
            counted_dense=mean([part.traffic.counted_dense for part in stepped], stepped),
        ),
        certificate=Certificate(
            steps=sum(part.certificate.steps for part in parts),
            calls=sum(part.certificate.calls for part in parts),
            sparse_steps=math.fsum(part.certificate.sparse_steps for part in parts),
            layers_active=max(part.certificate.layers_active for part in parts),
        ),
        loglikelihood=None,
        greedy=None,
        finite=all(part.finite for part in parts),
    )


def mean(values: Sequence[float], answers: Sequence[Answer]) -> float:
    """Over the decode steps of these answers, or over the answers if they took none; nan if there are none."""
    weights = [answer.certificate.steps for answer in answers]
    if not sum(weights):
        weights = [1] * len(weights)
    return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights) if values else math.nan
