"""Scores by lm-eval: its filters and metrics run over answers that are already there."""

import copy
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from sparq_eval.request import Answer


class Replay(LM):
    """A model that has answered already: the n-th document gets the n-th answer."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        super().__init__()
        self.answers = answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [self.answers[request.doc_id].output for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return [self._forced(self.answers[request.doc_id]) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("no task here scores a text without a prompt")

    def _forced(self, answer: Answer) -> tuple[float, bool]:
        if answer.loglikelihood is None:
            raise ValueError(f"answer {answer.index} has no log-likelihood, which its task is scored by")
        return answer.loglikelihood, bool(answer.greedy)


def score(task: ConfigurableTask, metric: str, answers: Sequence[Answer]) -> dict[int, float]:
    """The metric of each answer by its index. lm-eval sees only the documents that were answered."""
    if not answers:
        return {}
    answered = copy.copy(task)
    answered.dataset = {**task.dataset, "test": task.dataset["test"].select([answer.index for answer in answers])}
    # its progress bars have no switch
    with no_advice(), redirect_stderr(io.StringIO()):
        results = evaluate(Replay(answers), {"tasks": {task.task_name: answered}}, bootstrap_iters=0)
    return {answers[row["doc_id"]].index: float(row[metric]) for row in results["samples"][task.task_name]}


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
