"""Malformed configs, command lines, records and rows: refused in a sentence or left out by name, never a crash.

SPARQ_EVAL_FUZZ=3000 pytest tests/test_fuzz.py    tries as many of each kind, new ones every time
"""

import contextlib
import copy
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console
from test_store import DENSE, RUN, entry, row

from sparq_eval.errors import UserError
from sparq_eval.evaluate.settings import Settings, check_pins, read_settings
from sparq_eval.overrides import CONFIGS, check_overrides, pins
from sparq_eval.report.findings import find
from sparq_eval.report.latex import latex
from sparq_eval.report.page import write_page
from sparq_eval.report.tables import markdown, results_csv, samples_csv
from sparq_eval.report.terminal import terminal_table
from sparq_eval.results import load
from sparq_eval.results.exchange import from_lm_eval
from sparq_eval.results.prompts import load_prompts
from sparq_eval.results.rows import parse
from sparq_eval.results.verify import verify
from sparq_eval.sweep.cells import Words
from sparq_eval.sweep.manifest import read as read_manifest

MANY = int(os.environ.get("SPARQ_EVAL_FUZZ", 0))
fuzz = settings(
    max_examples=MANY or 60,
    derandomize=not MANY,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if os.environ.get("SPARQ_EVAL_NO_SHRINK") else list(Phase),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 10**400, 1e308, float("inf"), float("-inf"), float("nan"), 0.5, -0.5]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", "auto", "dense", "null", "../x", "\ud800", "\x00", "=1+1", "paper", "context", "on"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        composed: Any = OmegaConf.to_container(compose("config"), resolve=True)
    return composed


def paths(config: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a config, nested ones too."""
    found = []
    for key, value in config.items():
        found.append((*before, key))
        if isinstance(value, dict):
            found += paths(value, (*before, key))
    return found


@fuzz
@given(data=st.data())
def test_a_config_is_read_or_refused_in_a_sentence(default: dict[str, Any], data: st.DataObject) -> None:
    config = copy.deepcopy(default)
    for path in data.draw(st.lists(st.sampled_from(paths(default)), min_size=1, max_size=3)):
        node: Any = config
        for key in path[:-1]:
            node = node[key] if isinstance(node, dict) and key in node else {}
        if isinstance(node, dict):
            node[path[-1]] = data.draw(values)
    try:
        read = read_settings(config)
        check_pins(config, pins(str(config["protocol"])))
    except UserError as error:
        assert str(error).strip()
    else:
        assert isinstance(read, Settings) and read.samples >= 1 and read.settings


words = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.builds(
            lambda key, value: f"{key}={value}",
            st.sampled_from(
                ["k", "model", "task", "hydra/launcher", "sweep_dir", "methods.sparq.r", "+x", "~k", "grid", "kk"]
            ),
            st.text(max_size=12)
            | st.sampled_from(["[1,2", "1,2", "range(1,3)", "{a:1}", "'", "${k}", "", "null", "glob(*)"]),
        ),
    ),
    max_size=4,
)


@fuzz
@given(arguments=words)
def test_a_command_line_is_understood_or_refused_in_a_sentence(arguments: list[str]) -> None:
    with contextlib.suppress(UserError):
        check_overrides(arguments)
    with contextlib.suppress(UserError):
        assert len(Words.of(arguments).measured) <= len(arguments)


@fuzz
@given(
    lines=st.lists(st.binary(max_size=40) | st.builds(lambda v: json.dumps(v).encode(), values), max_size=5),
    data=st.data(),
)
def test_any_bytes_among_rows_hide_no_row_and_become_none(lines: list[bytes], data: st.DataObject) -> None:
    good = [row(n).line(DENSE.key).rstrip(b"\n") for n in range(3)]
    every = [*lines, *good]
    order = data.draw(st.permutations(range(len(every))))
    parsed = parse(b"\n".join(every[n] for n in order) + b"\n", DENSE.key)
    assert parsed.indices == {0, 1, 2}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "right"
    entry(root, DENSE).append([row(n) for n in range(3)], RUN)
    entry(root).append([row(n) for n in range(3)], RUN)
    return root


def report(root: Path) -> None:
    """All that a report does but the drawing, which is of the same frames."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        verify(root)
        try:
            findings = find(load(root))
        except UserError:
            return
        results_csv(findings, root / "results.csv")
        samples_csv(findings.frames.samples, root / "samples.csv")
        markdown(findings)
        latex(findings)
        terminal_table(findings, Console(file=io.StringIO()))
        write_page(findings.frames, findings.comparisons, findings.headline, load_prompts(root), root)


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """Cut, flipped, doubled, or with something else in the midst of it."""
    place = data.draw(st.integers(0, len(content)))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "double", "replace"]))
    if kind == "cut":
        return content[:place]
    if kind == "flip" and place < len(content):
        return content[:place] + bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))]) + content[place + 1 :]
    if kind == "double":
        return content[:place] + content[max(0, place - 50) : place] + content[place:]
    return content[:place] + data.draw(st.binary(max_size=20)) + content[place if kind == "insert" else place + 10 :]


def copied(results: Path, name: str) -> Path:
    root = results.with_name(name)
    shutil.rmtree(root, ignore_errors=True)
    return Path(shutil.copytree(results, root))


@fuzz
@given(data=st.data())
def test_a_record_whose_bytes_were_changed_never_breaks_the_report(results: Path, data: st.DataObject) -> None:
    root = copied(results, "changed")
    path = data.draw(st.sampled_from(sorted(path.relative_to(root) for path in root.rglob("*.json*"))))
    (root / path).write_bytes(mutated((root / path).read_bytes(), data))
    report(root)


@fuzz
@given(data=st.data())
def test_a_record_with_other_values_never_breaks_the_report(results: Path, data: st.DataObject) -> None:
    """Well-formed JSON without checksums, as another program might write it."""
    root = copied(results, "other")
    path = data.draw(st.sampled_from(sorted(root.rglob("record.json"))))
    content = json.loads(path.read_bytes())
    del content["seal"]
    for where in data.draw(st.lists(st.sampled_from(paths(content)), max_size=2)):
        node: Any = content
        for key in where[:-1]:
            node = node.get(key, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node[where[-1]] = data.draw(values)
    path.write_text(json.dumps(content))
    lines = [json.loads(line) for line in (path.parent / "samples.jsonl").read_bytes().splitlines()]
    for line in lines:
        del line["crc"]
        if data.draw(st.booleans()):
            line[data.draw(st.sampled_from(sorted(line)))] = data.draw(scalars)
    (path.parent / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(root)


@fuzz
@given(
    content=st.binary(max_size=60)
    | st.builds(
        lambda v: json.dumps(v).encode(),
        values
        | st.dictionaries(
            st.sampled_from(["results", "config", "n-samples", "digest", "schema", "cells", "higher_is_better"]), values
        ),
    )
)
def test_other_files_are_read_or_refused_in_a_sentence(results: Path, content: bytes) -> None:
    for name, reader in (("manifest.json", lambda path: read_manifest(path.parent)), ("results.json", from_lm_eval)):
        path = results.parent / name
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            reader(path)
