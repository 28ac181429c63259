"""The store loses nothing that was measured, measures nothing twice, and trusts only records that are what they say."""

import json
import math
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from sparq_eval.errors import UserError
from sparq_eval.results import Entry, Identity, Row, Store, load
from sparq_eval.results.record import safe
from sparq_eval.results.rows import parse

IDENTITY = Identity(
    model={"name": "org/model-1", "sha256": "ab"},
    task="squad",
    data={"set": "squad", "version": 1},
    method="sparq",
    settings={"r": 16, "k": 128, "local": 32, "reallocate": False},
    protocol={"stop": "task", "dtype": "float32"},
    versions={"torch": "2.13", "sparq_eval": "0.1.0"},
)
DENSE = replace(IDENTITY, method="dense", settings={})
RUN = {"started": "2024-05-01T10:00:00", "command": "python -m sparq_eval", "seconds": 2.0, "peak_memory": 10}


def row(index: int, **changes: Any) -> Row:
    plain = Row(
        index=index,
        id=f"example {index}",
        prompt_tokens=100 + index,
        generated_tokens=7,
        output=f'"{index}",\n\r\u2028é\x00\\ud800',
        score=(index % 3) / 2,
        nominal=10.0 + index,
        nominal_dense=100.0 + index,
        counted=12.0 + index,
        counted_dense=110.0 + index,
        decode_steps=6,
        calls=18,
        sparse_steps=5.5,
        layers_active=3,
        truncated=False,
        finite=True,
        seconds=0.25,
    )
    return replace(plain, **changes)


def entry(root: Path, identity: Identity = IDENTITY) -> Entry:
    return Store(root).open(identity, metric="prefix_match", higher_is_better=True)


def record(of: Entry) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((of.path / "record.json").read_text())
    return content


def indices_on_disk(of: Entry) -> list[int]:
    return [json.loads(line)["index"] for line in (of.path / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_the_key_changes_with_any_field_of_the_identity(name: str) -> None:
    value = getattr(IDENTITY, name)
    other: Any = f"{value}x" if isinstance(value, str) else value | {"name": "other", "k": 129}
    assert replace(IDENTITY, **{name: other}).key != IDENTITY.key


def test_the_key_does_not_depend_on_the_order_of_names() -> None:
    backwards: dict[str, Any] = {
        name: dict(reversed(value.items())) for name, value in asdict(IDENTITY).items() if type(value) is dict
    }
    assert replace(IDENTITY, **backwards).key == IDENTITY.key


def test_an_identity_that_json_cannot_hold_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = replace(IDENTITY, settings={"temperature": math.nan}).key


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row(2, output="\ud800 alone"), row(0, counted=math.nan, score=1 / 3), row(1, output="")]
    entry(tmp_path).append(rows, RUN)
    back = entry(tmp_path).rows()
    assert [one.index for one in back] == [0, 1, 2]
    assert math.isnan(back[0].counted) and back[0].score == 1 / 3
    assert back[1:] == [rows[2], rows[0]]
    assert entry(tmp_path).indices() == {0, 1, 2}


def test_nothing_is_written_before_the_first_append(tmp_path: Path) -> None:
    assert entry(tmp_path / "new").indices() == set()
    assert not (tmp_path / "new").exists()


def test_an_example_is_never_overwritten_or_repeated(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0), row(1), row(1, score=0.9)], RUN)
    of.append([row(1, score=0.7), row(2)], RUN)
    assert indices_on_disk(of) == [0, 1, 2]
    assert of.rows()[1] == row(1)


def test_the_record_describes_itself(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0), row(1), row(2, counted=math.nan, counted_dense=math.nan)], RUN | {"config": {"k": [64]}})
    content = record(of)
    assert content["key"] == IDENTITY.key and of.path.name == f"sparq-{IDENTITY.key[:16]}"
    assert Identity(**content["identity"]) == IDENTITY
    summary = content["summary"]
    assert summary["samples"] == 3 and summary["score"] == 0.5 and summary["seconds"] == 0.75
    assert summary["stderr"] == pytest.approx(math.sqrt((0.5**2 + 0.5**2) / 3 / 3))
    assert summary["nominal_ratio"] == pytest.approx(33 / 303)
    assert summary["counted_ratio"] == pytest.approx(25 / 221), "only the examples that know it"
    assert summary["sparse_share"] == pytest.approx(5.5 / 6)


def test_appends_of_one_run_count_as_one(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0)], RUN)
    of.append([row(1)], RUN | {"seconds": 3.0, "peak_memory": 7})
    of.append([row(2)], RUN | {"started": "later", "where": Path("there")})
    of.append([row(2)], RUN | {"started": "to no end"})
    runs = record(of)["runs"]
    assert [(run["samples"], run["seconds"], run["peak_memory"]) for run in runs] == [(2, 5.0, 10), (1, 2.0, 10)]
    assert runs[1]["where"] == "there"


def test_an_append_cut_anywhere_loses_only_what_it_had_not_written(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0), row(1)], RUN)
    samples = of.path / "samples.jsonl"
    whole = samples.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (0, 1, first - 1, first, first + 5, len(whole) - 1, len(whole)):
        samples.write_bytes(whole[:cut])
        complete = {json.loads(line)["index"] for line in whole[:cut].splitlines(keepends=True) if line.endswith(b"\n")}
        assert entry(tmp_path).indices() == complete
        again = entry(tmp_path)
        again.append([row(0), row(1)], RUN)
        assert sorted(indices_on_disk(again)) == [0, 1] and again.rows() == [row(0), row(1)]
        assert record(again)["summary"]["samples"] == 2


def test_a_torn_line_is_kept_aside(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0)], RUN)
    with (of.path / "samples.jsonl").open("ab") as samples:
        samples.write(b'{"index": 1, "id')
    of.append([row(1)], RUN)
    assert (of.path / "samples.torn").read_bytes() == b'{"index": 1, "id\n'
    assert of.rows() == [row(0), row(1)]


def test_a_line_that_is_no_row_is_measured_again_and_hides_no_other(tmp_path: Path) -> None:
    lines = [row(n).line(IDENTITY.key) for n in range(4)]
    bad = [
        b"\0" * 40 + b"\n",
        b'{"index": 9}\n',
        lines[1].replace(b'"index": 1', b'"index": "1"'),
        b"1],[2\n",
        b"\xff\n",
    ]
    for line in bad:
        parsed = parse(lines[0] + line + lines[2], IDENTITY.key)
        assert parsed.indices == {0, 2} and parsed.unreadable == [2] and not parsed.torn


def test_a_record_that_lags_behind_its_rows_is_brought_up_to_date(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0)], RUN)
    before = (of.path / "record.json").read_bytes()
    of.append([row(1)], RUN)
    after = record(of)["summary"]
    (of.path / "record.json").write_bytes(before)
    entry(tmp_path)
    assert record(of)["summary"] == after


def test_what_a_run_did_is_on_disk_before_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(row: Row, key: str) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Row, "line", power_cut)
    with pytest.raises(KeyboardInterrupt):
        entry(tmp_path).append([row(0)], RUN)
    monkeypatch.undo()
    assert record(entry(tmp_path))["runs"][0]["command"] == RUN["command"]
    assert entry(tmp_path).indices() == set()


def write_some(root: Path, indices: Sequence[int], score: float) -> None:
    of = entry(root)
    for index in indices:
        of.append([row(index, score=score)], RUN | {"started": f"writer {score}"})


def test_two_writers_keep_every_row_once(tmp_path: Path) -> None:
    orders = [random.Random(seed).sample(range(30), 24) for seed in range(3)]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(tmp_path, order, n)) for n, order in enumerate(orders)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    of = entry(tmp_path)
    expected = sorted(set().union(*orders))
    assert sorted(indices_on_disk(of)) == expected
    content = record(of)
    assert content["summary"]["samples"] == sum(run["samples"] for run in content["runs"]) == len(expected)


def test_killing_a_writer_loses_and_repeats_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)
    context = multiprocessing.get_context("fork")
    entry(tmp_path).append([row(0)], RUN)
    seen = {0}
    for attempt in range(6):
        writer = context.Process(target=write_some, args=(tmp_path, range(200), attempt))
        writer.start()
        time.sleep(chance.uniform(0.03, 0.15))
        writer.kill()
        writer.join()
        of = entry(tmp_path)
        assert of.indices() >= seen, "what was there stays"
        seen = of.indices()
        assert record(of)["summary"]["samples"] == len(seen)
    of.append([row(n) for n in range(200)], RUN)
    assert sorted(indices_on_disk(of)) == list(range(200))


def test_a_store_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="results_dir="):
        Store(tmp_path / "file" / "results")


def test_a_foreign_record_in_an_entrys_place_is_not_written_to(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0)], RUN)
    changed = record(of) | {"identity": asdict(DENSE)}
    (of.path / "record.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="move"):
        entry(tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "-x", "", "..", "模型", "a b\n", "x" * 300, "NUL:"])
def test_any_name_is_one_safe_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / safe(name)
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve() and not safe(name).startswith((".", "-"))
    of = entry(tmp_path, replace(IDENTITY, model={"name": name}, task=name, method=name))
    assert of.path.relative_to(tmp_path).parts[-1].endswith(of.blank["key"][:16]) and len(of.path.parts) > 3


def test_records_that_do_not_say_what_they_are_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = entry(tmp_path, DENSE)
    good.append([row(0)], RUN)

    def spoil(seed: int, **changes: Any) -> Path:
        of = entry(tmp_path, replace(IDENTITY, settings={"seed": seed}))
        of.append([row(0)], RUN)
        (of.path / "record.json").write_text(json.dumps(record(of) | changes))
        return of.path

    bad = [
        spoil(1, key="0" * 64),
        spoil(2, schema=99),
        spoil(3, identity={"model": 1}),
        spoil(4, identity=asdict(DENSE)),
    ]
    (bad[2] / "record.json").write_text("{")
    copy = tmp_path / "copied"
    copy.mkdir()
    for name in ("record.json", "samples.jsonl"):
        (copy / name).write_bytes((good.path / name).read_bytes())
    (tmp_path / "squad.json").write_text("[]")
    frames = load(tmp_path)
    warnings = capsys.readouterr().err
    assert list(frames.records["method"]) == ["dense"] and len(frames.samples) == 1
    kept = {Path(frames.records["path"][0])}
    for path in {*bad, copy, good.path, tmp_path / "squad.json"} - kept:
        assert any(line.startswith("warning") and f"{path}:" in line for line in warnings.splitlines()), path


def test_loading_takes_numbers_from_the_rows(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(n) for n in range(3)], RUN)
    content = record(of)
    content["summary"] = {"samples": 1000, "score": 1.0}
    (of.path / "record.json").write_text(json.dumps(content))
    [record_row] = load(tmp_path).records.to_dict("records")
    assert record_row["samples"] == 3 and record_row["value"] == 0.5
    assert (record_row["r"], record_row["k"], record_row["local"]) == (16, 128, 32)


def test_a_missing_or_empty_folder_is_one_clear_sentence(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=r"^results=.*run wrote"):
            load(root)


def test_records_under_other_conditions_get_a_letter_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("dense", "sparq"):
        entry(tmp_path, replace(DENSE, method=method)).append([row(0)], RUN)
    entry(tmp_path, replace(DENSE, protocol={"stop": "paper", "dtype": "float32"})).append([row(0)], RUN)
    entry(tmp_path, replace(DENSE, task="other", versions={})).append([row(0)], RUN)
    frames = load(tmp_path)
    table = frames.records.set_index(["task", "variant", "method"]).index.to_list()
    assert table == [("other", "", "dense"), ("squad", "A", "dense"), ("squad", "A", "sparq"), ("squad", "B", "dense")]
    [note] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("variant")]
    assert 'protocol.stop (A: "task", B: "paper")' in note and "dtype" not in note


def test_of_one_setting_in_two_places_the_longer_record_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, n in (("a", 2), ("b", 3), ("c", 3)):
        entry(tmp_path / place).append([row(i) for i in range(n)], RUN)
    [record] = load(tmp_path).records.to_dict("records")
    assert record["samples"] == 3 and Path(record["path"]).is_relative_to(tmp_path / "b")
    said = capsys.readouterr().err
    assert said.count("the same record as in") == 2 and said.count("left out") == 2


def test_a_method_without_a_kernel_stands_beside_those_that_have_one(tmp_path: Path) -> None:
    def add(method: str, backend: str) -> None:
        protocol = {**DENSE.protocol, "backend": backend}
        entry(tmp_path, replace(DENSE, method=method, protocol=protocol)).append([row(0)], RUN)

    add("dense", "kernel")
    add("flexgen", "torch")
    assert set(load(tmp_path).records["variant"]) == {""}
    add("dense", "torch")
    told = load(tmp_path).records.set_index(["variant", "method"]).index
    assert sorted(told) == [("A", "dense"), ("A", "flexgen"), ("B", "dense")], "one setting was decoded by both"
