"""Results that were torn, cut short, flipped or put there by others are found, named and set aside, and never used."""

import csv
import io
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_store import DENSE, IDENTITY, RUN, entry, record, row

from sparq_eval.errors import UserError
from sparq_eval.report.sheet import write_sheet
from sparq_eval.results import load, load_analyses, load_benches
from sparq_eval.results.__main__ import main
from sparq_eval.results.compare import diff
from sparq_eval.results.exchange import from_lm_eval, from_parquet, to_lm_eval, to_parquet
from sparq_eval.results.formulas import as_generated
from sparq_eval.results.merge import Merged, merge
from sparq_eval.results.prompts import Prompt, keep_prompts
from sparq_eval.results.tidy import remove, rubbish
from sparq_eval.results.verify import set_aside, verify
from sparq_eval.results.whole import key_of

COMMITTED = Path(__file__).parents[1] / "results"


def fill(root: Path, n: int = 4, **changes: object) -> Path:
    entry(root, DENSE).append([row(index) for index in range(n)], RUN)
    of = entry(root)
    of.append([row(index, **changes) for index in range(n)], RUN)
    return of.path


def test_what_was_written_is_found_to_be_so(tmp_path: Path) -> None:
    fill(tmp_path)
    assert verify(tmp_path) == []


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    folder, chance = fill(tmp_path), random.Random(5)
    for name in ("samples.jsonl", "record.json"):
        path = folder / name
        right = path.read_bytes()
        before = load(tmp_path)
        for _ in range(150):
            place = chance.randrange(len(right) * 8)
            wrong = bytearray(right)
            wrong[place // 8] ^= 1 << place % 8
            path.write_bytes(wrong)
            if not verify(tmp_path):
                after = load(tmp_path)
                pd.testing.assert_frame_equal(after.samples, before.samples)
                pd.testing.assert_frame_equal(after.records, before.records)
        path.write_bytes(right)


def test_what_is_wrong_is_named_and_set_aside_and_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path)
    samples = folder / "samples.jsonl"
    lines = samples.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"score": 0.5', b'"score": 0.9')
    samples.write_bytes(b"".join(lines)[:-20])
    (folder / "notes.json").write_text("{}")
    foreign = tmp_path / "elsewhere"
    foreign.mkdir()
    (foreign / "record.json").write_text('{"schema": 2, "key"')
    (tmp_path / "results_lm_eval.json").write_text("{}")
    found = {str(finding.path.relative_to(tmp_path)): finding.what for finding in verify(tmp_path)}
    own = str(folder.relative_to(tmp_path))
    assert found[f"{own}/samples.jsonl"].startswith(("lines 2 are not rows", "2 of 4 rows are gone"))
    assert found[f"{own}/notes.json"] == found["results_lm_eval.json"] == "no part of a record"
    assert "is not a record" in found["elsewhere"]
    assert load(tmp_path).samples.query("method == 'sparq'")["index"].to_list() == [0, 2], "never used"
    command = [sys.executable, "-m", "sparq_eval.results", "verify", str(tmp_path), "--set-aside"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 1
        and "lines 2 are not rows as they were written for this record; its last line is cut short" in done.stdout
    )
    assert [finding.what for finding in verify(tmp_path)] == ["2 of 4 rows are gone; the same run measures them again"]
    assert sorted(path.name for path in (tmp_path / ".aside").iterdir()) == [
        "elsewhere",
        "org--model-1",
        "results_lm_eval.json",
    ]
    again = entry(tmp_path)
    assert again.indices() == {0, 2}
    again.append([row(index) for index in range(4)], RUN | {"started": "later"})
    assert [one["samples"] for one in record(again)["runs"]] == [4, 2]
    assert verify(tmp_path) == [], "what was measured again is not missed"
    capsys.readouterr()
    assert len(load(tmp_path).samples) == 8
    assert "left out" not in capsys.readouterr().err


def test_a_setting_in_two_places_is_named_and_neither_is_set_aside(tmp_path: Path) -> None:
    fill(tmp_path / "a", n=2)
    long = fill(tmp_path / "b", n=4)
    found = [finding for finding in verify(tmp_path) if "that with more rows is read" in finding.what]
    assert len(found) == 2 and long in [finding.path for finding in found]
    assert [set_aside(tmp_path, finding) for finding in found] == [None, None] and long.is_dir()


def test_a_changed_record_is_not_written_to(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    content = json.loads((folder / "record.json").read_bytes())
    content["runs"][0]["command"] = "another"
    (folder / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not describe what its folder was made for; move"):
        entry(tmp_path)
    [finding] = verify(tmp_path)
    assert "not as it was written" in finding.what
    set_aside(tmp_path, finding)
    assert entry(tmp_path).indices() == set()


def test_records_of_older_versions_without_checksums_are_read(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    samples = folder / "samples.jsonl"
    older = [{k: v for k, v in json.loads(line).items() if k != "crc"} for line in samples.read_bytes().splitlines()]
    samples.write_text("".join(json.dumps(one) + "\n" for one in older))
    content = json.loads((folder / "record.json").read_bytes())
    del content["seal"]
    (folder / "record.json").write_text(json.dumps(content))
    assert verify(tmp_path) == [] and len(load(tmp_path).samples) == 8
    of = entry(tmp_path)
    of.append([row(9)], RUN)
    assert record(of)["seal"] and len(of.rows()) == 5


def test_rows_of_another_record_are_named_never_used_and_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path, score=0.25)
    other = entry(tmp_path, replace(IDENTITY, settings={"k": 2}))
    other.append([row(index, score=1.0) for index in range(6)], RUN)
    (folder / "samples.jsonl").write_bytes((other.path / "samples.jsonl").read_bytes())
    before = (folder / "record.json").read_bytes()
    assert entry(tmp_path).indices() == set() and (folder / "record.json").read_bytes() == before
    assert folder not in set(map(Path, load(tmp_path).records["path"]))
    assert "lines 1, 2, 3, 4, 5, 6 are not rows as they were written for this record" in capsys.readouterr().err
    found = verify(tmp_path)
    assert [finding.what.partition(" are ")[0] for finding in found] == ["lines 1, 2, 3, 4, 5, …", "4 of 4 rows"]
    set_aside(tmp_path, found[0])
    assert (folder / "samples.torn").read_bytes() == (other.path / "samples.jsonl").read_bytes()
    entry(tmp_path).append([row(index, score=0.25) for index in range(4)], RUN)
    assert verify(tmp_path) == []


def test_opening_a_record_does_not_make_its_summary_that_of_other_rows(tmp_path: Path) -> None:
    """Rows of older versions are bound to no record: the summary alone tells that they are another's."""
    folder = fill(tmp_path)
    older = [row(index, score=0.125).line("").partition(b', "crc"')[0] + b"}\n" for index in range(6)]
    for count in (4, 6):
        (folder / "samples.jsonl").write_bytes(b"".join(older[:count]))
        entry(tmp_path)
        assert [finding.what for finding in verify(tmp_path)] == [
            "its summary is not that of its rows: either was changed, or is another record's"
        ]


def test_rows_without_their_record_are_set_aside_whole(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    (folder / "record.json").unlink()
    [finding] = verify(tmp_path)
    assert finding.what == "rows without their record"
    place = set_aside(tmp_path, finding)
    assert place and place.stat().st_size and verify(tmp_path) == [] and not (folder / "samples.jsonl").exists()


def test_a_checksum_that_is_not_written_as_ours_is_none(tmp_path: Path) -> None:
    folder = fill(tmp_path, n=1)
    samples = folder / "samples.jsonl"
    body, _, crc = samples.read_bytes().partition(b', "crc": "')
    for other in (crc.replace(crc[:8], b"ABCDEF12"), b'x"}\n', b'1"}\n', crc.replace(b'"', b'" ')):
        samples.write_bytes(body.replace(b'"score": 0.0', b'"score": 0.9') + b', "crc": "' + other)
        assert entry(tmp_path).indices() == set()
    samples.write_bytes(body + b"}\n")
    assert entry(tmp_path).indices() == {0}, "rows of older versions have none"


def test_two_folders_are_compared_example_by_example(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b", n=6, score=0.25)
    table = diff(tmp_path / "a", tmp_path / "b").set_index("method")
    assert table.loc["dense", ["samples_a", "samples_b", "common", "changed"]].to_list() == [4, 6, 4, 0]
    assert table.loc["sparq", "changed"] == 4 and table.loc["sparq", "difference"] == pytest.approx(0.25 - 1.5 / 4)


def test_merging_adds_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", n=2)
    fill(tmp_path / "b", n=4, score=0.25)
    entry(tmp_path / "b", replace(IDENTITY, task="other")).append([row(0)], RUN)
    before = (entry(tmp_path / "a").path / "samples.jsonl").read_bytes()
    assert merge(tmp_path / "a", tmp_path / "b") == Merged(rows=5, notes=0, files=0, different=2)
    assert (entry(tmp_path / "a").path / "samples.jsonl").read_bytes().startswith(before)
    assert verify(tmp_path / "a") == []
    assert merge(tmp_path / "a", tmp_path / "b") == Merged(rows=0, notes=0, files=0, different=2)
    assert len(load(tmp_path / "a").samples) == 9


def test_merging_into_nothing_gives_all_that_there_is(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    fill(b)
    of = entry(b)
    of.note("decoding", {"backend": "kernel", "seconds": 0.012})
    of.fail("1 of 4 answers met logits that are not finite")
    for path in sorted(COMMITTED.glob("*/bench-*.json"))[:2] + sorted(COMMITTED.glob("*/analysis-*.json"))[:1]:
        (b / "timed").mkdir(exist_ok=True)
        (b / "timed" / path.name).write_bytes(path.read_bytes())
    assert merge(a, b) == Merged(rows=8, notes=1, files=3, different=0)
    assert merge(a, b) == Merged(rows=0, notes=0, files=0, different=0)
    ours, theirs = load(a), load(b)
    pd.testing.assert_frame_equal(ours.records.drop(columns="path"), theirs.records.drop(columns="path"))
    pd.testing.assert_frame_equal(ours.samples, theirs.samples)
    assert load_benches(a) == load_benches(b) and load_analyses(a) == load_analyses(b) and verify(a) == []
    of.note("decoding", {"backend": "torch"})
    assert merge(a, b).notes == 0 and record(entry(a))["decoding"]["backend"] == "kernel"


def test_what_one_side_does_not_know_of_a_row_is_no_other_content(tmp_path: Path) -> None:
    for root, known in (("a", {}), ("b", {"prompt": "ab", "token_lengths": "3 4", "seconds": 9.0})):
        entry(tmp_path / root).append([row(0, **known)], RUN)  # type: ignore[arg-type]
    assert merge(tmp_path / "a", tmp_path / "b").different == 0
    entry(tmp_path / "c").append([row(0, prompt="cd")], RUN)
    assert merge(tmp_path / "b", tmp_path / "c").different == 0
    entry(tmp_path / "d").append([row(0, token_lengths="4 3")], RUN)
    assert merge(tmp_path / "b", tmp_path / "d").different == 1


@pytest.mark.parametrize(
    "words", [["merge", "A", "nosuch"], ["gc", "nosuch"], ["verify", "nosuch"], ["diff", "A", "nosuch"]]
)
def test_a_folder_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path, words: list[str]) -> None:
    fill(tmp_path / "A")
    command = [sys.executable, "-m", "sparq_eval.results", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and "results=nosuch: no such folder; give the one that a run wrote" in done.stderr


def test_a_record_is_compared_with_itself_else_the_conditions_that_differ_are_named(tmp_path: Path) -> None:
    def put(root: str, dtype: str, score: float, k: int = 64) -> None:
        settings, protocol = IDENTITY.settings | {"k": k}, IDENTITY.protocol | {"dtype": dtype}
        entry(tmp_path / root, replace(IDENTITY, settings=settings, protocol=protocol)).append(
            [row(0, score=score)], RUN
        )

    for root, dtype, score in (
        ("a", "float32", 1.0),
        ("a", "bfloat16", 0.5),
        ("b", "bfloat16", 0.5),
        ("c", "float32", 1),
    ):
        put(root, dtype, score)
    put("a", "float32", 1.0, k=65)
    table = diff(tmp_path / "a", tmp_path / "b")
    told = table[["samples_a", "samples_b", "difference", "conditions"]].fillna(-1).to_numpy().tolist()
    assert told == [
        [1, 1, 0.0, 'protocol.dtype (A: "bfloat16", B: "bfloat16")'],
        [1, 0, -1, 'protocol.dtype (A: "float32")'],
        [1, 0, -1, ""],
    ]
    [line] = diff(tmp_path / "c", tmp_path / "b").to_dict("records")
    assert line["difference"] == -0.5 and line["conditions"] == 'protocol.dtype (A: "float32", B: "bfloat16")'


def test_only_what_is_no_result_is_tidied_away(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    before = load(tmp_path)
    (folder / ".record.json.aside").write_text("{")
    (folder / "samples.torn").write_text("{")
    failed = entry(tmp_path, replace(IDENTITY, task="broken"))
    failed.fail("it broke", RUN)
    assert {path.name for path, _ in rubbish(tmp_path)} == {".record.json.aside", "samples.torn"}
    assert not remove(failed.path), "what failed goes only where that was asked for"
    assert all(remove(path, failed=True) for path, _ in rubbish(tmp_path, failed=True))
    assert rubbish(tmp_path, failed=True) == [] and not failed.path.exists()
    pd.testing.assert_frame_equal(load(tmp_path).records, before.records)


def test_tidying_leaves_nothing_new_behind(tmp_path: Path) -> None:
    (tmp_path / "m/t/h2o-1").mkdir(parents=True)
    for name in ("m/t/h2o-1/.record.json.aside", "m/t/.prompts.jsonl.aside"):
        (tmp_path / name).write_text("{")
    keep_prompts(tmp_path / "m/u", [Prompt("a")])
    (tmp_path / "m/u/samples.torn").write_text("{")
    assert all(remove(path) for path, _ in rubbish(tmp_path))
    assert rubbish(tmp_path) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "m/u/prompts.jsonl"]


def test_frames_go_to_parquet_and_back(tmp_path: Path) -> None:
    fill(tmp_path / "results", output="=1+1\n<b>é")
    frames = load(tmp_path / "results")
    to_parquet(frames, tmp_path / "out")
    back = from_parquet(tmp_path / "out")
    pd.testing.assert_frame_equal(back.records, frames.records)
    pd.testing.assert_frame_equal(back.samples, frames.samples)
    with pytest.raises(UserError, match=r"needs records\.parquet"):
        from_parquet(tmp_path)


def test_frames_go_to_lm_evals_results_and_back(tmp_path: Path) -> None:
    fill(tmp_path / "results")
    frames = load(tmp_path / "results")
    back = pd.concat([from_lm_eval(path) for path in to_lm_eval(frames, tmp_path / "out")], ignore_index=True)
    names = ["model", "task", "method", "metric", "value", "stderr", "samples"]
    pd.testing.assert_frame_equal(back[names], frames.records[names], check_dtype=False)


def test_settings_with_long_names_go_to_a_file_each(tmp_path: Path) -> None:
    for name in ("m" * 200, "m" * 200 + "/x"):
        for temperature in ("sqrt_d", "sqrt_r"):
            own = replace(IDENTITY, model={"name": name}, settings={"long" * 30: 1, "temperature": temperature})
            entry(tmp_path / "results", own).append([row(0)], RUN)
    written = to_lm_eval(load(tmp_path / "results"), tmp_path / "out")
    assert len(set(written)) == len(list((tmp_path / "out").iterdir())) == 4
    assert all(len(path.name) < 120 for path in written)


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    "content", [DEEP, '{"schema": 1, "when": ' + DEEP, '{"schema": 1' + "0" * 400 + "}", "", "[1]"]
)
@pytest.mark.parametrize("kind", ["bench", "analysis"])
def test_a_hostile_benchmark_or_analysis_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, content: str
) -> None:
    (tmp_path / f"{kind}-x-0123456789ab.json").write_text(content)
    [finding] = verify(tmp_path)
    assert finding.what.startswith("no record of ")
    assert load_benches(tmp_path) == [] and load_analyses(tmp_path) == []
    assert "left out" in capsys.readouterr().err


def test_a_time_that_is_none_here_is_refused(tmp_path: Path) -> None:
    path = next(iter(sorted(COMMITTED.glob("bench/bench-*.json"))))
    content = json.loads(path.read_bytes()) | {"when": "0001-01-01T00:00:00"}
    key = key_of({name: value for name, value in content.items() if name != "schema"} | {"schema": content["schema"]})
    (tmp_path / f"bench-x-{key}.json").write_text(json.dumps(content))
    assert load_benches(tmp_path) == [] and len(verify(tmp_path)) == 1


NUMBER = {"a": {"acc,none": 1.0}}


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "{}",
        json.dumps({"results": {"a": {"acc,none": 10**400}}}),
        json.dumps({"results": {"a": {"acc,none": 1.0, "acc_stderr,none": 10**400}}}),
        json.dumps({"results": NUMBER, "n-samples": []}),
        json.dumps({"results": NUMBER, "config": [1]}),
        json.dumps({"results": 3}),
        '{"results": {"a": {"acc,none": 1' + "0" * 5000 + "}}}",
    ],
)
def test_what_is_no_results_file_of_lm_eval_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json: is not a results file of lm-eval \(\w+: .+\)$"):
        from_lm_eval(tmp_path / "results.json")


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", " =x", "\t=x", "'=x", "plain", "'x"])
def test_csv_that_is_printed_or_drawn_from_is_text_to_a_spreadsheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    content = {"results": {text: {"acc,none": -0.5}}, "model_name": text}
    (tmp_path / "results.json").write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["results", "import", str(tmp_path / "results.json"), "--from", "lm-eval"])
    with pytest.raises(SystemExit):
        main()
    [printed] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    write_sheet(pd.DataFrame({"model": [text], "task": [text], "value": [-0.5]}), [], "", tmp_path / "sheet")
    [drawn] = csv.DictReader(io.StringIO((tmp_path / "sheet.csv").read_text()))
    for line in (printed, drawn):
        assert line["value"] == "-0.5" and not line["model"].lstrip().startswith(("=", "+", "-", "@"))
        assert as_generated(line["model"]) == as_generated(line["task"]) == text


def test_a_results_file_that_lm_eval_wrote_is_read(tmp_path: Path) -> None:
    content = {
        "results": {
            "arc": {
                "alias": "arc",
                "acc,none": 0.5,
                "acc_stderr,none": 0.1,
                "bleu,none": 3.0,
                "bleu_stderr,none": "N/A",
            }
        },
        "config": {"model": "hf", "model_args": "pretrained=org/m,dtype=float16"},
        "n-samples": {"arc": {"original": 100, "effective": 20}},
    }
    (tmp_path / "results_2026.json").write_text(json.dumps(content))
    table = from_lm_eval(tmp_path / "results_2026.json")
    assert table[["model", "metric", "value", "samples"]].to_numpy().tolist() == [
        ["org/m", "acc", 0.5, 20],
        ["org/m", "bleu", 3.0, 20],
    ]
