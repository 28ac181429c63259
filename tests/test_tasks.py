"""Tasks: the same examples however many are asked for, from every source of text; one sentence where there is none."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from opened import bytes_tokenizer, opened

from sparq_eval.errors import UserError
from sparq_eval.harness import data as data_module
from sparq_eval.harness.metric import Metric
from sparq_eval.harness.task import Data, Task, folder

NAMES = ["cnn_dailymail", "needle", "repetition", "squad", "triviaqa", "wikitext_bpc"]
LENGTHS = (15, 3, 31, 63, 7)  # as text they sort like this
TRAINING = [f"squad_train_{n}" for n in LENGTHS]


@pytest.fixture(scope="module")
def mirror(shared: Path) -> Data:
    return Data("mirror", shared / "data/mirror")


@pytest.fixture(scope="module")
def tasks(mirror: Data) -> dict[str, Task]:
    return {name: opened(name, mirror) for name in NAMES}


def test_asking_for_more_never_changes_what_came_before(tasks: dict[str, Task], mirror: Data) -> None:
    for name in ("cnn_dailymail", "needle", "repetition", "triviaqa"):
        few, more = tasks[name].requests(4), opened(name, mirror).requests(300 if name == "triviaqa" else 12)
        assert few == more[:4] == tasks[name].requests(4)
        assert [request.index for request in more] == list(range(len(more)))


def test_fewer_examples_than_asked_for_are_all_there_are(tasks: dict[str, Task]) -> None:
    task = tasks["triviaqa"]
    assert len(task.requests(10**6)) == len(task) == 31
    assert len(tasks["squad"]) == 10570


def test_tasks_say_what_they_measure(tasks: dict[str, Task]) -> None:
    assert {name: (task.metric, task.higher_is_better) for name, task in tasks.items()} == {
        "cnn_dailymail": ("rougeL", True),
        "needle": ("needle_match", True),
        "repetition": ("match_length", True),
        "squad": ("prefix_match", True),
        "triviaqa": ("prefix_match", True),
        "wikitext_bpc": ("bits_per_character", False),
    }


def test_sources_are_identified_in_plain_values(tasks: dict[str, Task]) -> None:
    for task in tasks.values():
        assert json.loads(json.dumps(task.source)) == task.source
        assert len(task.source["sha256"]) == 64
        assert task.source["task_version"] == 1
    assert tasks["needle"].source["lengths"] == [50, 100]


def test_pythia_is_asked_for_a_single_word(mirror: Data) -> None:
    tokenizer = bytes_tokenizer(bos=False)
    for name, end in [("pythia-1.4b", "\nSingle-word answer:"), ("llama2-7b", "?\nAnswer:")]:
        (request, *_) = opened("triviaqa", mirror, tokenizer, model_name=name).requests(1)
        assert tokenizer.decode(request.prompt).endswith(end)


def test_prompts_of_the_training_set_have_the_paragraphs_they_are_named_for(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "squad").mkdir()
    with gzip.open(shared / "data/mirror/squad/validation.jsonl.gz") as whole:
        few = [next(whole) for _ in range(200)]
    (tmp_path / "squad/train.jsonl.gz").write_bytes(gzip.compress(b"".join(few)))
    for n in LENGTHS:
        task = opened(f"squad_train_{n}", Data("mirror", tmp_path))
        assert {request.text.count("Title: ") for request in task.requests(5)} == {n + 1}
    (tmp_path / "squad/train.jsonl.gz").rename(tmp_path / "squad/validation.jsonl.gz")
    with pytest.raises(UserError, match=r"it has no squad/train\.jsonl\.gz, which this task reads"):
        opened("squad_train_7", Data("mirror", tmp_path))


def test_examples_know_which_others_they_hang_together_with(tasks: dict[str, Task]) -> None:
    for name, share in {"squad": True, "repetition": True, "cnn_dailymail": False}.items():
        requests = tasks[name].requests(200)
        clusters = {request.cluster for request in requests}
        assert ("" not in clusters and 1 < len(clusters) < 200) if share else clusters == {""}


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=f"task=squat: no such task; there are {', '.join([*NAMES[:4], *TRAINING, *NAMES[4:]])}"
    ):
        opened("squat", Data("hub"))


def test_a_source_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.source=disk: must be one of bundled, mirror, hub"):
        opened("squad", Data("disk"))


def test_a_mirror_needs_a_root() -> None:
    with pytest.raises(UserError, match=r"data.root=null: data=mirror needs data.root=<folder that holds squad/>"):
        opened("squad", Data("mirror"))


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.root=.*nowhere: no such folder"):
        opened("squad", Data("mirror", tmp_path / "nowhere"))


def test_a_file_that_a_mirror_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no squad/validation.jsonl.gz"):
        opened("squad", Data("mirror", str(tmp_path)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny_shakespeare" / "train.jsonl.gz"
    path.parent.mkdir()
    whole = gzip.compress(b'{"text": "To be"}\n')
    for content in (b"no gzip", whole[:-9], gzip.compress(b"{"), gzip.compress(b'{"page": "x"}'), gzip.compress(b"[]")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train.jsonl.gz"):
            opened("repetition", Data("mirror", tmp_path))


@pytest.mark.parametrize("name", ["squad", "triviaqa", "cnn_dailymail"])
def test_what_is_not_bundled_names_the_other_sources(name: str) -> None:
    with pytest.raises(UserError, match=r"data=bundled has no text of .* use data=mirror data.root=.* or data=hub"):
        opened(name, Data("bundled"))


@pytest.mark.parametrize("name", ["squad", "repetition"])
@pytest.mark.parametrize("offline", [True, False])
def test_without_a_hub_the_other_ways_are_named(name: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(data_module.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"data=hub needs .*data=mirror data.root=.*data=bundled") as error:
        opened(name, Data("hub"))
    assert ("HF_HUB_OFFLINE is set" in str(error.value)) == offline


def test_the_hub_is_read_at_fixed_revisions(mirror: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub would send is played by the mirror, all of it in the first split, with a column too many."""

    def published(repository: str, config: str | None, split: str, revision: str) -> Dataset:
        asked.append((config, split, revision))
        rows = data_module.read_set(repository.split("/")[1], mirror).rows
        return Dataset.from_list([{**row, "extra": 1} for row in rows] if split == "train" else [{"text": ""}])

    asked: list[Any] = []
    monkeypatch.setattr(data_module, "load_dataset", published)
    monkeypatch.setattr(data_module.constants, "HF_HUB_OFFLINE", True)
    for name in ("wikitext_bpc", "repetition"):
        task, same = opened(name, Data("hub")), opened(name, mirror)
        assert task.docs.to_list() == same.docs.to_list()
        assert task.source["revision"] == asked[-1][2]
    assert asked == [
        ("wikitext-103-raw-v1", "train", "647234772b9554e208af6c826f23b99e3cac88c8"),
        *((None, split, "refs/convert/parquet") for split in ("train", "validation", "test")),
    ]
    assert len(task.source["sha256"]) == 64, "a branch can move, so the text itself is identified"


@pytest.fixture(scope="module")
def bundled() -> Iterator[dict[str, Task]]:
    try:
        yield {name: opened(name, Data("bundled")) for name in ("repetition", "needle", "wikitext_bpc")}
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.real
def test_bundled_text_fills_the_default_run(bundled: dict[str, Task]) -> None:
    assert len(bundled["repetition"]) > 1000
    assert len(bundled["wikitext_bpc"]) >= 50
    assert len(bundled["needle"]) == 6
    for task in bundled.values():
        assert len(task.source["package"]["sha256"]) == 64


@pytest.mark.real
def test_bundled_plays_are_speech_alone(bundled: dict[str, Task]) -> None:
    tokenizer = bytes_tokenizer()
    text = tokenizer.decode(bundled["repetition"].requests(1)[0].prompt[1:])
    assert not set("_*#[]\\") & set(text)
    assert text.count(":\n") > 10


@pytest.mark.real
def test_bundled_pages_hold_no_markup(bundled: dict[str, Task]) -> None:
    text = "".join(doc["prompt"] for doc in bundled["wikitext_bpc"].docs)
    assert "<doc" not in text and "</doc>" not in text and "&lt;" not in text


def test_lm_eval_alone_runs_the_definitions(shared: Path) -> None:
    metadata = {"source": "mirror", "root": str(shared / "data/mirror"), "tokenizer": bytes_tokenizer()}
    manager = TaskManager(include_path=str(folder()), include_defaults=False, metadata=metadata)
    names = [name for name in NAMES if name != "squad"]
    done = simple_evaluate("dummy", tasks=names, task_manager=manager, limit=2, bootstrap_iters=0, log_samples=False)
    assert done is not None
    assert {name: set(done["higher_is_better"][name]) for name in names} == {
        name: {opened(name, Data(**{key: metadata[key] for key in ("source", "root")})).metric} for name in names
    }


def test_opening_a_task_says_nothing(mirror: Data, capfd: pytest.CaptureFixture[str]) -> None:
    opened("triviaqa", mirror).requests(3)
    assert capfd.readouterr() == ("", "")


WORDS = ["right", "wrong"]


@pytest.mark.parametrize(
    ("kind", "options", "target", "text", "several", "right"),
    [
        ("generate_until", None, "a", "", 0, ("a",)),
        ("generate_until", None, ["a", " ", "b", "a"], "", 0, ("a", "b")),
        ("generate_until", None, 42, "", 0, ("42",)),
        ("generate_until", None, None, "", 0, ()),
        ("generate_until", None, {"x": 1}, "", 0, ()),
        ("generate_until", WORDS, 1, "", 0, ("wrong",)),
        ("multiple_choice", WORDS, 0, "", 0, ("right",)),
        ("multiple_choice", WORDS, "right", "", 0, ("right",)),
        ("multiple_choice", WORDS, [0, 1], "", 0, ("right", "wrong")),
        ("multiple_choice", WORDS, " is red", 1, 2, ("wrong",)),
        ("loglikelihood", None, "a", "", 0, ()),
        ("loglikelihood_rolling", None, "a", "", 0, ()),
    ],
)
def test_references_are_the_targets_in_words(
    kind: str, options: list[str] | None, target: Any, text: Any, several: int, right: tuple[str, ...]
) -> None:
    config = SimpleNamespace(doc_to_target="target", doc_to_choice=options and "options", output_type=kind)
    of = {"doc_to_target": target, "doc_to_text": text, "doc_to_choice": options}
    ways: dict[str, Any] = {name: lambda doc, value=value: value for name, value in of.items()}
    fake: Any = SimpleNamespace(config=config, multiple_input=several, **ways)
    task = Task("t", fake, [{}], author=lambda *_: [], scored_by=Metric("m", "none", True), source={})
    assert task.references(0) == right
    fake.config.doc_to_target = 0 if options is None else "target"
    assert task.references(0) == (right if options else ())
