"""A task as a run sees it: requests for an engine, and scores for its answers.

The tasks themselves are lm-eval's kind of definitions in the folder `tasks`; their protocol is that of SparQ's
evaluation (arXiv 2312.04985).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import UndefinedError
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

import sparq_eval
from sparq_eval.errors import UserError
from sparq_eval.harness.data import Data
from sparq_eval.harness.lm import respond
from sparq_eval.harness.metric import Metric, only
from sparq_eval.harness.prompt import Tokenizer, Writer
from sparq_eval.harness.score import judge, no_advice
from sparq_eval.progress import progress
from sparq_eval.request import Answer, Request

__all__ = ["Data", "Protocol", "Task", "open_task"]

ROOM = 256  # tokens that the published limit on prompts leaves for the answer
CHUNK = 256
Part = TypeVar("Part", Request, Answer)
# requests for what lm-eval asks about documents that follow each other from an index
Author = Callable[[int, Sequence[Any], Sequence[Sequence[Instance]]], list[Request]]


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


@dataclass
class Task:
    """What is asked about documents and how answers score, both by lm-eval; an author turns the one into requests.

    name: what a user calls it. task: lm-eval's, its few-shot examples seeded. metric: what scores are of. source:
    identity of the data, with the version of the task's definition.
    """

    name: str
    task: ConfigurableTask
    docs: Sequence[Any]
    author: Author
    scored_by: Metric
    source: dict[str, Any]

    def __post_init__(self) -> None:
        self._requests: list[list[Request]] = []

    @property
    def metric(self) -> str:
        return self.scored_by.name

    @property
    def higher_is_better(self) -> bool:
        return self.scored_by.higher_is_better

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.docs)

    def requests(self, n: int) -> list[Request]:
        """Those of the first n examples in evaluation order, or of all if there are fewer; the same whatever n is."""
        n = min(n, len(self))
        if (missing := n - len(self._requests)) > 4 * CHUNK:
            with progress(f"{self.name}: preparing prompts", missing, "prompts") as advance:
                while len(self._requests) < n:
                    advance(self._write_more(n))
        while len(self._requests) < n:
            self._write_more(n)
        return [request for requests in self._requests[:n] for request in requests]

    def score(self, answers: Sequence[Answer]) -> dict[int, float]:
        """Each example's score by its index; the answers to all requests of an example are there, in any order."""
        if not answers:
            return {}
        examples = list(by_example(answers).items())
        docs = [self.docs[index] for index, _ in examples]
        rows = judge(self.task, kind_of(self.task), docs, [self._responses(parts) for _, parts in examples])
        fitting = [row for row in rows if row["filter"] == self.scored_by.filter]
        return {examples[row["doc_id"]][0]: self.scored_by.of(row) for row in fitting}

    def output(self, answers: Sequence[Answer]) -> str:
        """What the answers to one example say: the text, and in nats how likely it was, or each of several."""
        if kind_of(self.task) == "loglikelihood_rolling":
            (total,) = self._responses(answers)
            return f"{total:.2f} nats in {sum(len(answer.tokens) for answer in answers)} tokens"
        if kind_of(self.task) == "generate_until":
            return answers[0].output
        options = [answer.output for answer in answers]
        if self.task.OUTPUT_TYPE == "multiple_choice":
            options = self.task.doc_to_choice(self.docs[answers[0].index])
        # requests that follow the options are those without a context, which some metrics compare them with
        likely = [value for value, _ in self._responses(answers[: len(options)])]
        return f"{options[likely.index(max(likely))]} ({', '.join(f'{value:.2f}' for value in likely)})"

    def references(self, index: int) -> tuple[str, ...]:
        """The answers that are right by lm-eval's targets, of texts to generate and of options; () where there is none
        or what is asked about is the text itself.
        """
        doc, config = self.docs[index], self.task.config
        if config.doc_to_target is None or config.output_type not in ("generate_until", "multiple_choice"):
            return ()
        options = self.task.doc_to_choice(doc) if config.doc_to_choice is not None else []
        if isinstance(config.doc_to_target, int) and not options:
            return ()  # it stands for nothing: the task's own metric knows better
        # where texts are the options, what is usually the text says which of them is right
        target = self.task.doc_to_text(doc) if self.task.multiple_input else self.task.doc_to_target(doc)
        each = target if isinstance(target, list | tuple) else [target]
        named = [options[one] if isinstance(one, int) and 0 <= one < len(options) else one for one in each]
        return tuple(
            dict.fromkeys(str(one) for one in named if isinstance(one, str | int | float) and str(one).strip())
        )

    def _responses(self, answers: Sequence[Answer]) -> list[Any]:
        kind = kind_of(self.task)
        instances = [answers] if kind == "loglikelihood_rolling" else [[answer] for answer in answers]
        return [respond(kind, parts) for parts in instances]

    def _write_more(self, n: int) -> int:
        first = len(self._requests)
        places = range(first, min(n, first + CHUNK))
        docs = [self.docs[place] for place in places]
        instances = [ask(self.name, self.task, doc, place) for place, doc in zip(places, docs, strict=True)]
        written = by_example(self.author(first, docs, instances))
        self._requests += [written[place] for place in places]
        return len(docs)


def ask(name: str, task: ConfigurableTask, doc: Any, index: int) -> list[Instance]:
    """What lm-eval asks about a document. Few-shot examples are drawn, so documents must come in their order.

    UserError, under the task's name, where the document or an example before it has no answer: splits that are for
    testing may hide theirs behind a label like -100.
    """
    try:
        context = task.fewshot_context(
            doc=doc, num_fewshot=task.config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc)
        )
        built = task.construct_requests(doc=doc, ctx=context, metadata=(task.task_name, index, 1))
        check_label(task, doc)
    except (LookupError, UndefinedError) as error:
        raise unanswered(name, f"example {index} cannot be asked", error) from error
    return built if isinstance(built, list) else [built]


def check_label(task: ConfigurableTask, doc: Any) -> None:
    """IndexError for a label that is no place among the options, or none of them: lm-eval would take every answer for
    wrong.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.doc_to_choice is None:
        return
    label, options = task.doc_to_target(doc), task.doc_to_choice(doc)
    place = isinstance(label, int) and 0 <= label < len(options)
    # where texts are the options, the label is what follows each of them
    named = isinstance(label, str) and (label in options or task.multiple_input)
    if isinstance(label, int | str) and not (place or named):
        raise IndexError(f"its label {label} is none of its {len(options)} options")


def unanswered(name: str, what: str, error: Exception) -> UserError:
    why = f"{error}".strip().split("\n")[0] or type(error).__name__
    return UserError(
        f"task={name}: {what} ({why}); where the answers of its split are hidden, include_path=<folder> takes a "
        "definition of yours over one whose are not"
    )


def kind_of(task: ConfigurableTask) -> str:
    """What a task asks of a model."""
    return "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else str(task.OUTPUT_TYPE)


def by_example(parts: Iterable[Part]) -> dict[int, list[Part]]:
    """Requests or answers of each example, by its index, in the order of their parts."""
    examples: dict[int, list[Part]] = {}
    for part in parts:
        examples.setdefault(part.index, []).append(part)
    return {index: sorted(parts, key=lambda one: one.part) for index, parts in examples.items()}


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

    def author(first: int, docs: Sequence[Any], instances: Sequence[Sequence[Instance]]) -> list[Request]:
        return writer.write(first, docs, [str(instance.args[0]) for (instance,) in instances])

    source = {**task.dataset["identity"], "task_version": task.VERSION}
    return Task(name, task, task.dataset["test"], author, only(task), source)


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
