"""lm-eval's own tasks under a run's settings: `lm_eval/<name>`, a group, a tag or a task of a folder of the user's."""

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from huggingface_hub import constants
from jinja2 import UndefinedError
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from sparq_eval.errors import UserError
from sparq_eval.harness.data import reachable
from sparq_eval.harness.lm import EngineLM, Response
from sparq_eval.harness.metric import choose
from sparq_eval.harness.score import judge, no_advice
from sparq_eval.harness.task import Task, ask, kind_of, unanswered
from sparq_eval.progress import say
from sparq_eval.request import Request

LIBRARY = "lm_eval/"
SHOTS_SEED = 1234  # lm-eval's own default
BLANK: dict[str, Response] = {"generate_until": "", "loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}
# what the `datasets` library reads from files
FILES = {"json", "csv", "parquet", "arrow", "text", "pandas", "xml", "webdataset", "imagefolder", "audiofolder"}
COMMIT = re.compile(r"@([0-9a-f]{40})/")


def open_library(name: str, lm: EngineLM, include_path: Path | None, metadata: Mapping[str, str]) -> list[Task]:
    """The tasks that `lm_eval/<name>[:metric[:filter]]` means, with their data: several for a group or a tag.

    metadata: what tasks that make their own data may ask for. Raises UserError for a name that is none, a metric that
    is none, data that cannot be had, and what no model here can do.
    """
    wanted, _, metric = name.removeprefix(LIBRARY).partition(":")
    label = f"{LIBRARY}{wanted}"
    definitions = find(wanted, include_path, metadata)
    check_hub(label, leaves(wanted, definitions))
    try:
        with no_advice():
            tasks = definitions.load(wanted)["tasks"]
    except ImportError as error:
        raise UserError(f"task={label}: a package that it needs is not installed ({error})") from error
    except (OSError, DatasetsError) as error:
        raise no_data(label, f"its data could not be read ({first_line(error)})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"task={label}: its definition makes no task ({first_line(error)})") from error
    except (IndexError, UndefinedError) as error:
        raise unanswered(label, "its first example cannot be asked", error) from error
    return [open_one(f"{LIBRARY}{own}", task, metric or None, lm) for own, task in tasks.items()]


def open_one(label: str, task: Any, wanted: str | None, lm: EngineLM) -> Task:
    if getattr(task, "MULTIMODAL", False) or getattr(task, "UNSAFE_CODE", False):
        why = "runs code that a model wrote" if getattr(task, "UNSAFE_CODE", False) else "shows more than text"
        raise UserError(f"task={label}: it {why}, which is not done here")
    task.config.num_fewshot = task.config.num_fewshot or 0
    docs = task.eval_docs
    if not hasattr(docs, "__getitem__") or not hasattr(docs, "__len__"):
        docs = list(docs)
    with no_advice():
        task.set_fewshot_seed(SHOTS_SEED)
        asked = ask(label, task, docs[0], 0)
        task.set_fewshot_seed(SHOTS_SEED)
    kind = kind_of(task)
    if kind not in BLANK or {instance.request_type for instance in asked} != {kind}:
        raise UserError(f"task={label}: it asks for {kind} and other things at once, which cannot be one record")
    rows = judge(task, kind, docs[:1] if isinstance(docs, list) else [docs[0]], [[BLANK[kind]] * len(asked)])
    metric, default = (choose(task, label, choice, rows) for choice in (wanted, None))
    name = label if metric == default else f"{label}:{wanted}"

    def author(first: int, docs: Sequence[Any], instances: Sequence[Sequence[Instance]]) -> list[Request]:
        documents = enumerate(zip(docs, instances, strict=True), first)
        return [one for index, (doc, asked) in documents for one in lm.write_all(asked, index, name_of(doc, index))]

    return Task(name, task, docs, author, metric, identity(task, docs))


def find(name: str, include_path: Path | None, metadata: Mapping[str, str]) -> TaskManager:
    """Definitions that have this name and all that it is made of: the user's own if they do, else lm-eval's too."""
    if include_path is not None:
        own = TaskManager(include_path=str(include_path), include_defaults=False, metadata=dict(metadata))
        if None not in list(leaves(name, own)):
            return own
    whole = everything(include_path, tuple(metadata.items()))
    if name not in whole.task_index:
        near = difflib.get_close_matches(name, whole.all_tasks, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`python -m sparq_eval.lm_eval ls tasks` lists them"
        raise UserError(f"task={LIBRARY}{name}: lm-eval has no such task; {hint}")
    return whole


@cache
def everything(include_path: Path | None, metadata: tuple[tuple[str, str], ...]) -> TaskManager:
    say("reading lm-eval's task definitions, of which there are thousands")
    with no_advice():
        return TaskManager(include_path=None if include_path is None else str(include_path), metadata=dict(metadata))


def leaves(member: str | Mapping[str, Any], definitions: TaskManager) -> Iterator[Mapping[str, Any] | None]:
    """The settings of each task that a name, or a member of a group, stands for; None for one that is not defined."""
    if isinstance(member, Mapping):
        inner = member.get("task") or member["group"]
        for one in inner if isinstance(inner, list) else [inner]:
            for settings in leaves(one, definitions):
                yield {**(settings or {}), **member}
        return
    entry = definitions.task_index.get(member)
    if entry is None:
        yield None
        return
    parts = sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg.get("task")
    if not isinstance(parts, list):
        yield entry.cfg
        return
    for part in parts:
        yield from leaves(part, definitions)


def check_hub(label: str, settings: Iterable[Mapping[str, Any] | None]) -> None:
    """UserError where a task's data lie on a hub that does not answer, before the long wait that it would be."""
    for one in settings:
        path = None if one is None or "custom_dataset" in one else one.get("dataset_path")
        if path is None or path in FILES or Path(path).exists() or constants.HF_HUB_OFFLINE:
            continue
        if not reachable():
            raise no_data(label, f"it needs {path} of the hub, which cannot be reached")
        return


def no_data(label: str, why: str) -> UserError:
    cached = "" if constants.HF_HUB_OFFLINE else "HF_HUB_OFFLINE=1 reads what the hub's cache has, and "
    return UserError(
        f"task={label}: {why}; {cached}include_path=<folder> takes definitions of yours whose data are files"
    )


def identity(task: ConfigurableTask, docs: Sequence[Any]) -> dict[str, Any]:
    """What tells this task's questions from others: where its data are from, and digests of them and of its definition.

    The few-shot examples are drawn from data that are part of the digest where there are any.
    """
    config = task.config
    shots = config.num_fewshot
    pool = task.sampler.df if shots and hasattr(task, "sampler") else []
    checksums = getattr(getattr(docs, "info", None), "download_checksums", None) or {}
    commits = sorted({commit for path in checksums for commit in COMMIT.findall(path)})
    definition = {key: value for key, value in config.to_dict().items() if key not in ("metadata", "dataset_kwargs")}
    return {
        "source": "lm_eval",
        "set": config.dataset_path,
        "config": config.dataset_name,
        "revision": commits[0] if len(commits) == 1 else None,
        "sha256": digest([*docs, *pool]),
        "shots": shots,
        "definition": digest([definition]),
        "task_version": task.VERSION,
    }


def digest(values: Iterable[Any]) -> str:
    """sha256 over values as JSON; functions count by their source."""
    whole = hashlib.sha256()
    for value in values:
        whole.update(json.dumps(value, sort_keys=True, default=source_of).encode())
    return whole.hexdigest()


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def source_of(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(value)


def name_of(doc: Any, index: int) -> str:
    """A document's own name for itself, else its place."""
    named = doc.get("id") if isinstance(doc, Mapping) else None
    return str(index if named is None else named)
