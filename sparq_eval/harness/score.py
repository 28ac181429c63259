"""Scores by lm-eval: its filters and metrics run over answers that are already there."""

import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from sparq_eval.harness.lm import Response


class Replay(LM):
    """A model that has answered already: by document, then by which of its requests it is."""

    def __init__(self, responses: Sequence[Sequence[Response]]) -> None:
        super().__init__()
        self.responses = responses

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        return [self.responses[request.doc_id or 0][request.idx] for request in requests]

    loglikelihood = loglikelihood_rolling = generate_until


class Answered:
    """A task as lm-eval's evaluation sees it, with the documents that were answered and no others.

    Its requests are not built again, since a prompt has no part in a score; nothing is aggregated over the documents,
    since more of them may follow.
    """

    def __init__(self, task: ConfigurableTask, kind: str, docs: Sequence[Any], requests: Sequence[int]) -> None:
        self._task = task
        self.eval_docs = docs
        self.instances = [
            Instance(kind, doc, ("",), idx, metadata=(task.task_name, place, task.config.repeats))
            for place, (doc, count) in enumerate(zip(docs, requests, strict=True))
            for idx in range(count)
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def build_all_requests(self, **_: Any) -> None:
        pass

    def doc_iterator(self, **_: Any) -> Iterator[tuple[int, Any]]:
        return enumerate(self.eval_docs)

    def apply_filters(self) -> None:
        for chain in self._task._filters:
            chain.apply(self.instances)

    def aggregation(self) -> dict[str, Any]:
        return defaultdict(lambda: len)

    def dump_config(self) -> dict[str, Any]:
        return {}


def judge(
    task: ConfigurableTask, kind: str, docs: Sequence[Any], responses: Sequence[Sequence[Response]]
) -> list[dict[str, Any]]:
    """lm-eval's rows: one for each document (its place is `doc_id`) and each of the task's filters, with `metrics`.

    kind: that of the task's requests. responses: of each document, to each of its requests.
    """
    answered = Answered(task, kind, docs, [len(response) for response in responses])
    # its progress bars have no switch
    with no_advice(), redirect_stderr(io.StringIO()):
        results = evaluate(Replay(responses), {"tasks": {task.task_name: answered}}, bootstrap_iters=0)
    return results["samples"][task.task_name]


@contextmanager
def no_advice() -> Iterator[None]:
    """Without what lm-eval logs below an error: hints for users of its command line."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
