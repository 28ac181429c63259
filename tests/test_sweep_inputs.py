"""All that a sweep is measured with counts: what is edited after its submission is refused, whatever else is left in
peace.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from killed import make, overrides

from sparq_eval.errors import UserError
from sparq_eval.sweep import code
from sparq_eval.sweep.cells import Cell, Words, cut
from sparq_eval.sweep.code import changed, code_of
from sparq_eval.sweep.manifest import frozen, read
from sparq_eval.sweep.status import look
from sparq_eval.sweep.submit import accepted
from sparq_eval.sweep.work import work

FILES = {
    "my_way.py": "import json, torch\nfrom bad_methods import Slow\nimport my_helper\nclass Way(Slow): pass\n",
    "my_helper.py": "def late():\n    from my_parts import inner\nK = 1\n",
    "my_parts/__init__.py": "",
    "my_parts/inner.py": "from . import near\nfrom .deep.far import FAR\n",
    "my_parts/near.py": "import my_way\n",
    "my_parts/deep/far.py": "FAR = 1\n",
    "my_parts/unused.py": "",
    "my_other.py": "",
    "tasks/words.yaml": "task: words\n",
    "tasks/data/words.jsonl": "{}\n",
    "tasks/utils.py": "import my_task_helper\n",
    "my_task_helper.py": "",
    "tasks/.words.yaml.swp": "",
    "tasks/__pycache__/utils.pyc": "",
    "tasks/run.log": "",
    "tasks/results/samples.jsonl": "{}\n",
    "tasks/sweep/manifest.json": "{}\n",
    "tasks/another/submissions.jsonl": "{}\n",
}
COUNTS = {
    "my_way.py": "method my_way",
    "my_helper.py": "module my_helper",
    "my_parts/__init__.py": "module my_parts",
    "my_parts/inner.py": "module my_parts.inner",
    "my_parts/near.py": "module my_parts.near",
    "my_parts/deep/far.py": "module my_parts.deep.far",
    "my_task_helper.py": "module my_task_helper",
    "tasks/words.yaml": "include_path=tasks: words.yaml",
    "tasks/data/words.jsonl": "include_path=tasks: data/words.jsonl",
    "tasks/utils.py": "include_path=tasks: utils.py",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A method with helpers, and task definitions among other things."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def cell(include_path: str | None = "tasks") -> Cell:
    methods = {"way": {"_target_": "my_way.Way", "k": [1]}, "dense": {"_target_": "sparq_eval.methods.Dense"}}
    config = {"methods": methods, "include_path": include_path, "results_dir": "tasks/results"}
    return Cell(0, "model", "task", config)


@pytest.mark.parametrize("name", FILES)
def test_what_an_answer_may_depend_on_counts_and_nothing_else_does(home: Path, name: str) -> None:
    before = code_of([cell()], home / "tasks/sweep")
    assert changed(before, code_of([cell()], home / "tasks/sweep")) is None
    with (home / name).open("a") as file:
        file.write("\n# edited\n")
    why = changed(before, code_of([cell()], home / "tasks/sweep"))
    assert why == (f"{COUNTS[name]} changed since the sweep was submitted" if name in COUNTS else None)


def test_a_file_that_goes_counts_and_one_that_comes_if_it_may_be_read(home: Path) -> None:
    before = code_of([cell()], home / "sweep")
    (home / "tasks/data/words.jsonl").rename(home / "tasks/data/others.jsonl")
    why = "include_path=tasks: data/words.jsonl changed since the sweep was submitted"
    assert changed(before, code_of([cell()], home / "sweep")) == why
    (home / "tasks/data/others.jsonl").rename(home / "tasks/data/words.jsonl")
    (home / "tasks/more.yaml").touch()
    assert "include_path=tasks: more.yaml changed" in str(changed(before, code_of([cell()], home / "sweep")))


@pytest.mark.parametrize("early", [True, False])
def test_results_and_reports_among_task_definitions_do_not_count(home: Path, early: bool) -> None:
    """Neither those that were there, and change, nor those that come."""
    other, report = home / "tasks/other/m/t", home / "tasks/rep"
    names = [other / "dense-1/record.json", other / "dense-1/samples.jsonl", other / "prompts.jsonl"]
    names += [home / "tasks/other/bench-x-0123456789ab.json", report / "index.html", report / "results.csv"]

    def fill(text: str) -> None:
        for path in names:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    if early:
        fill("{}")
    before = code_of([cell()], home / "sweep")
    fill("[]")
    (home / "tasks/notes.md").touch()
    assert changed(before, code_of([cell()], home / "sweep")) is None


def test_a_sweep_is_the_same_where_the_folder_it_is_given_in_is_not_searched_for_modules(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cell()
    alone = Cell(one.number, one.model, one.task, {**one.config, "methods": {}})
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(home))])
    made = frozen(home / "sweep", ["task=t"], [alone])
    assert "module my_task_helper" in made.code["files"]
    with made.at_home():
        assert accepted(made, new_code=False) == made


def test_each_module_is_read_once_however_many_definitions_import_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (home / f"tasks/more_{number}.py").write_text("import my_task_helper, my_parts.inner\n")
    (home / "tasks/deep.py").write_text("x = " + "-" * 20_000 + "1\n")
    read, right = [], code.names_in
    monkeypatch.setattr(code, "names_in", lambda path, module: read.append(path) or right(path, module))
    assert "include_path=tasks: deep.py" in code_of([cell()], home / "sweep")["files"]
    assert len(read) - len(set(read)) <= len(COUNTS), "those of the method and those of the tasks are apart"


def test_a_large_file_counts_by_its_size_and_time_and_a_circle_of_links_ends(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "LARGE", 10)
    (home / "tasks/again").symlink_to(home / "tasks")
    large = home / "tasks/data/large.txt"
    large.write_text("a" * 11)
    before = code_of([cell()], home / "sweep")
    seen = large.stat()
    large.write_text("b" * 11)
    os.utime(large, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert changed(before, code_of([cell()], home / "sweep")) is None
    large.write_text("b" * 12)
    os.utime(large, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert "data/large.txt changed" in str(changed(before, code_of([cell()], home / "sweep")))


def test_a_job_refuses_and_the_user_may_accept(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = make(tmp_path_factory.mktemp("tiny"))
    shutil.copytree(made / "tasks", home / "mine")
    (home / "configs/method").mkdir(parents=True)
    (home / "configs/method/way.yaml").write_text("# @package methods.way\n_target_: my_way.Way\nk: [1]\n")
    given = [word for word in overrides(made) if not word.startswith(("method=", "k=", "r=", "include_path="))]
    words = [*given, "--config-dir=configs", "method=way", "include_path=mine", "task=lm_eval/my_text", "selfcheck=off"]
    sweep = frozen(home / "sweep", words, cut(Words.of(words)))
    text = home / "mine/my_text.yaml"
    text.write_text(text.read_text() + "# edited\n")
    work(sweep.folder, 0)
    why = "include_path=mine: my_text.yaml changed since the sweep was submitted"
    assert look(sweep)[0].why.startswith(f"refused: {why}") and not (home / "results").exists()
    with pytest.raises(UserError, match=f"{why}.* --new-code"):
        accepted(sweep, new_code=False)
    taken = accepted(sweep, new_code=True)
    assert taken == read(sweep.folder) == replace(sweep, code=taken.code)
    assert [one["sha256"] for one in taken.code["before"]] == [sweep.code["sha256"]]
    work(sweep.folder, 0)
    assert look(sweep)[0].state == "done"
    assert json.loads(next(home.rglob("record.json")).read_bytes())["summary"]["samples"] == 5
