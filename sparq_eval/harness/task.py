"""A task as a run sees it: requests for an engine, and scores for its answers.

The tasks themselves are lm-eval's kind of definitions in the folder `tasks`; their protocol is that of SparQ's
evaluation (arXiv 2312.04985).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

import sparq_eval
from sparq_eval.errors import UserError
from sparq_eval.harness.data import Data
from sparq_eval.harness.prompt import Tokenizer, Writer
from sparq_eval.harness.score import no_advice, score
from sparq_eval.progress import progress
from sparq_eval.request import Answer, Request

__all__ = ["Data", "Protocol", "Task", "open_task"]

ROOM = 256  # tokens that the published limit on prompts leaves for the answer
CHUNK = 256


@dataclass(frozen=True)
class Protocol:
    """What a run may choose about its prompts.

    stop: `task` ends an answer at the task's stop strings; `paper` after a number of steps that is the example's own:
    for SQuAD and TriviaQA 5 more than the longest gold answer has tokens, 30 at most; for the others their reference's.
    truncate: `left` keeps the last `max_prompt` tokens of a prompt (the context length less 256 if that is None), as
    the paper does; `refuse` keeps it whole, however long. The needle task's prompts are never cut.
    needle_lengths: tokens of essays in its prompts, by default 128 less than each 1,024 up to 4,096 or the context.
    needle_depths: at how many places between their beginning and their end the needle is put.
    """

    stop: str = "task"
    max_prompt: int | None = None
    truncate: str = "refuse"
    needle_lengths: tuple[int, ...] = ()
    needle_depths: int = 5

    def __post_init__(self) -> None:
        if self.stop not in ("task", "paper"):
            raise UserError(f"stop={self.stop}: must be task or paper")
        if self.truncate not in ("refuse", "left"):
            raise UserError(f"truncate={self.truncate}: must be refuse or left")
        if any(length < 1 for length in self.needle_lengths):
            raise UserError(f"needle.lengths={list(self.needle_lengths)}: must be whole numbers of at least 1")
        if self.needle_depths < 1:
            raise UserError(f"needle.depths={self.needle_depths}: must be a whole number of at least 1")


class Task:
    """metric: what scores are of. source: identity of the data, with the version of the task's definition."""

    def __init__(self, task: ConfigurableTask, writer: Writer) -> None:
        self.name: str = task.task_name
        ((self.metric, self.higher_is_better),) = task.higher_is_better().items()
        self.source: dict[str, Any] = {**task.dataset["identity"], "task_version": task.VERSION}
        self._task = task
        self._writer = writer
        self._requests: list[Request] = []

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self._task.dataset["test"])

    def requests(self, n: int) -> list[Request]:
        """The first n examples in evaluation order, or all if there are fewer; the same ones whatever n is."""
        n = min(n, len(self))
        if (missing := n - len(self._requests)) > 4 * CHUNK:
            with progress(f"{self.name}: preparing prompts", missing, "prompts") as advance:
                while len(self._requests) < n:
                    advance(self._write_more(n))
        while len(self._requests) < n:
            self._write_more(n)
        return self._requests[:n]

    def score(self, answers: Sequence[Answer]) -> dict[int, float]:
        """Each answer's score by its index."""
        return score(self._task, self.metric, answers)

    def _write_more(self, n: int) -> int:
        first = len(self._requests)
        docs = self._task.dataset["test"].select(range(first, min(n, first + CHUNK))).to_list()
        self._requests += self._writer.write(first, docs, [self._task.doc_to_text(doc) for doc in docs])
        return len(docs)


def open_task(
    name: str, data: Data, tokenizer: Tokenizer, *, model_name: str, context_length: int, protocol: Protocol
) -> Task:
    """Build a task. Raises UserError for a name that is no task and for data that is not there."""
    definitions = TaskManager(
        include_path=str(folder()),
        include_defaults=False,
        metadata={
            "source": data.source,
            "root": None if data.root is None else str(data.root),
            "model_name": model_name,
            "tokenizer": tokenizer,
            "needle_lengths": needle_lengths(protocol, context_length) if name == "needle" else (),
            "needle_depths": protocol.needle_depths,
        },
    )
    if name not in definitions.all_subtasks:
        raise UserError(f"task={name}: no such task; there are {', '.join(definitions.all_subtasks)}")
    with no_advice():
        task = definitions.load(name)["tasks"][name]
    settings = task.config.metadata
    # lm-eval copies a task's metadata at each evaluation, and a tokenizer is large
    task.config.metadata = {"version": settings["version"]}
    generation = task.config.generation_kwargs or {}
    most = protocol.max_prompt or context_length - ROOM
    writer = Writer(
        name,
        tokenizer,
        most=most if protocol.truncate == "left" else None,
        steps=generation.get("max_gen_toks", 0),
        by_reference=settings.get("steps") == "reference"
        or (settings.get("steps"), protocol.stop) == ("answers", "paper"),
        margin=settings.get("margin", 0),
        until=tuple(generation.get("until", ())) if protocol.stop == "task" else (),
        forced=task.OUTPUT_TYPE == "loglikelihood",
    )
    return Task(task, writer)


def folder() -> Path:
    """Where the definitions are: inside an installed package, beside it in a checkout."""
    package = Path(sparq_eval.__file__).parent
    return next(path for path in (package / "tasks", package.parent / "tasks") if path.is_dir())


def needle_lengths(protocol: Protocol, context_length: int) -> tuple[int, ...]:
    lengths = protocol.needle_lengths or tuple(
        whole - 128 for whole in range(1024, min(context_length, 4096) + 1, 1024)
    )
    if not lengths:
        raise UserError(f"needle.lengths: a context of {context_length} tokens needs lengths below it, such as [256]")
    return lengths
