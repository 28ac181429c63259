"""Where the text of the tasks comes from: the published sets, a mirror of them in a folder, or packages.

Each gives the same columns, so a task reads them alike.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from datasets import Dataset, load_dataset
from huggingface_hub import constants

from sparq_eval.errors import UserError
from sparq_eval.harness import bundled
from sparq_eval.packages import file_sha256

SOURCES = ("bundled", "mirror", "hub")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """source: bundled, mirror or hub. root: the folder of a mirror."""

    source: str = "hub"
    root: str | Path | None = None


@dataclass(frozen=True)
class Text:
    """Rows of a set, and what says which text they are: a revision or sha256s."""

    rows: list[Row]
    identity: dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A set of the hub. Its splits are read one after another; a mirror has them in one file, named after the first."""

    repository: str
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    revision: str
    config: str | None = None
    folder: str = ""  # of a mirror, where it is not the set's own name
    packaged: Callable[[], tuple[list[dict[str, str]], dict[str, Any]]] | None = field(default=None, repr=False)

    @property
    def pinned(self) -> bool:
        return "/" not in self.revision


SETS = {
    "squad": Published(
        "rajpurkar/squad",
        ("validation",),
        ("id", "title", "context", "question", "answers"),
        "7b6d24c440a36b6815f21b70d25016731768db1f",
    ),
    "squad_train": Published(
        "rajpurkar/squad",
        ("train",),
        ("id", "title", "context", "question", "answers"),
        "7b6d24c440a36b6815f21b70d25016731768db1f",
        folder="squad",
    ),
    "trivia_qa": Published(
        "mandarjoshi/trivia_qa",
        ("validation",),
        ("question_id", "question", "answer", "entity_pages"),
        "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
        config="rc",
    ),
    "cnn_dailymail": Published(
        "abisee/cnn_dailymail",
        ("validation",),
        ("id", "article", "highlights"),
        "96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
        config="3.0.0",
    ),
    "wikitext_document_level": Published(
        "EleutherAI/wikitext_document_level",
        ("train",),
        ("page",),
        "647234772b9554e208af6c826f23b99e3cac88c8",
        config="wikitext-103-raw-v1",
        packaged=bundled.wikipedia,
    ),
    # its own branch holds a script, which is not run: this one is the hub's conversion, identified by its text
    "tiny_shakespeare": Published(
        "karpathy/tiny_shakespeare",
        ("train", "validation", "test"),
        ("text",),
        "refs/convert/parquet",
        packaged=bundled.shakespeare,
    ),
    "paul_graham": Published(
        "Mindofmachine/paul_graham_and_sam_altman_articles",
        ("train",),
        ("content",),
        "e63d4aa9a59da7f95a766af6437ee3e465e1f360",
        packaged=bundled.essays,
    ),
}


def read_set(name: str, data: Data) -> Text:
    """The rows of a set. Raises UserError where the source lacks it or cannot be reached."""
    if data.source not in SOURCES:
        raise UserError(f"data.source={data.source}: must be one of {', '.join(SOURCES)}")
    published = SETS[name]
    if data.source == "mirror":
        return _mirror(name, published, data.root)
    if data.source == "hub":
        return _hub(name, published)
    if published.packaged is None:
        ways = f"data=mirror data.root=<folder with {file_of(name)}> or data=hub"
        raise UserError(f"data=bundled has no text of the set {name}; use {ways}")
    rows, identity = published.packaged()
    return Text(list(rows), {"source": "bundled", "set": name, **identity})


def file_of(name: str) -> str:
    """Where a mirror has a set."""
    published = SETS[name]
    return f"{published.folder or name}/{published.splits[0]}.jsonl.gz"


def as_docs(docs: list[dict[str, Any]], text: Text, seed: int | None = None) -> dict[str, Any]:
    """What lm-eval asks of a task's data: the documents under `test`, here with their identity beside them.

    seed: that of the shuffle with which the `datasets` library puts them in evaluation order.
    """
    rows = Dataset.from_list(docs)
    return {"test": rows if seed is None else rows.shuffle(seed), "identity": text.identity}


def _mirror(name: str, published: Published, root: str | Path | None) -> Text:
    if root is None:
        raise UserError(f"data.root=null: data=mirror needs data.root=<folder that holds {name}/>")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.root={root}: no such folder; it should hold {file_of(name)}")
    path = folder / file_of(name)
    if not path.is_file():
        raise UserError(f"data.root={root}: it has no {path.relative_to(folder)}, which this task reads")
    return Text(list(_lines(path, published)), {"source": "mirror", "set": name, "sha256": file_sha256(path)})


def _lines(path: Path, published: Published) -> Iterator[Row]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield {column: row[column] for column in published.columns}
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is no gzipped JSON Lines file that can be read whole ({error})") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: each line should be an object with {', '.join(published.columns)}") from error


def _hub(name: str, published: Published) -> Text:
    repository, revision = published.repository, published.revision
    if not constants.HF_HUB_OFFLINE and not reachable():
        why = "the hub cannot be reached (if its cache has the set, HF_HUB_OFFLINE=1 reads it)"
        raise _missing(name, published, why)
    rows: list[Row] = []
    try:
        for split in published.splits:
            found = load_dataset(repository, published.config, split=split, revision=revision)
            rows += found.select_columns(list(published.columns))
    except OSError as error:
        why = "HF_HUB_OFFLINE is set and its cache lacks it" if constants.HF_HUB_OFFLINE else f"it failed: {error}"
        raise _missing(name, published, why) from error
    identity = {"source": "hub", "set": repository, "config": published.config, "revision": revision}
    if not published.pinned:
        identity["sha256"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return Text(rows, identity)


def reachable() -> bool:
    """Asked before `load_dataset`, which tries again and again for half a minute before it gives up."""
    try:
        urlopen(constants.ENDPOINT, timeout=10).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def _missing(name: str, published: Published, why: str) -> UserError:
    ways = f"data=mirror data.root=<folder with {file_of(name)}>"
    if published.packaged:
        ways += ", or data=bundled"
    else:
        ways += ", or data=bundled with the tasks wikitext_bpc, repetition and needle"
    return UserError(f"data=hub needs {published.repository}, and {why}; use {ways}")
