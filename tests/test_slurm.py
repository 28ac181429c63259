"""Sweeps on a real Slurm: preempted, requeued, killed, crashed, out of time, submitted twice. No number is lost.

Most of it is waiting, so the sweep that meets its time limit goes on, on a node of its own, beside the others.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from killed import make, settings_of, told
from slurm import begin, cluster, environment, jobs, manifest, node, rows, slurm, sweep, until

from sparq_eval.errors import UserError
from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import read_settings
from sparq_eval.results.prompts import PROMPTS
from sparq_eval.sweep.status import look
from sparq_eval.sweep.submit import resume

pytestmark = pytest.mark.waits

WORDS = ("include_path=tasks", "method=slow", "samples=5", "batch_size=1", "task=lm_eval/my_words", "selfcheck=off")
MODELS = ("m0", "m1", "m2")
SLOW = ("--config-dir", "configs")
# by the nodes that a sweep has, those that it has not
OTHERS = {"node1 and node2": "node[3-4]", "node3": "node[1-2,4]", "node4": "node[1-3]"}


@pytest.fixture(scope="module")
def on() -> Iterator[Path]:
    with cluster() as folder:
        yield folder


@pytest.fixture(scope="module")
def made(on: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("sweeps"))
    for name in MODELS:
        shutil.copytree(folder / "model", folder / name)
    (folder / "configs/method").mkdir(parents=True)
    slow = "# @package methods.slow\n_target_: bad_methods.Slow\nk: [1, 2]\n"
    (folder / "configs/method/slow.yaml").write_text(slow)
    return folder


def furnish(made: Path, folder: Path) -> Path:
    """A folder of its own for each test, with the same models, whose names are part of what is recorded."""
    for name in (*MODELS, "tasks", "configs"):
        (folder / name).symlink_to(made / name)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return furnish(made, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def limited(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The folder of the sweep that meets its time limit, when it has ended."""
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(meet_limits, furnish(made, tmp_path_factory.mktemp("limited")))


def uninterrupted(made: Path, models: tuple[str, ...]) -> dict[str, object]:
    """What the same cells leave when they are run here, one after another; made once."""
    results = made / "results"
    for name in models:
        if not (results / name).exists():
            words = [
                f"include_path={made / 'tasks'}",
                *WORDS[2:],
                "model=any",
                f"results_dir={results}",
                "method=dense",
            ]
            settings = settings_of([*words, f"model.path={made / name}"])
            config = {**settings.config, "methods": {"slow": {"_target_": "bad_methods.Slow", "k": [1, 2]}}}
            run(read_settings(config))
    return {key: value[2] for key, value in told(results).items() if key.startswith(models)}


def rows_told(folder: Path) -> dict[str, object]:
    for each in told(folder / "results").values():
        assert each[1] == len(each[2]), "the runs say how many rows each of them wrote"
    return {key: value[2] for key, value in told(folder / "results").items()}


def states(folder: Path) -> list[str]:
    return [each.state for each in look(manifest(folder))]


def restarts(folder: Path) -> list[int]:
    """How often Slurm started each cell again."""
    return [json.loads(path.read_bytes())["holder"]["restart"] for path in folder.glob("sweep/cells/*/state.json")]


def said(folder: Path) -> str:
    """What the only job of a sweep said, and Slurm of it."""
    [log] = folder.glob("sweep/.submitit/*/*_log.out")
    return log.read_text()


def test_what_is_edited_before_the_start_is_refused_and_a_requeued_job_goes_on(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "configs").unlink()
    shutil.copytree(made / "configs", folder / "configs")
    code = folder / "mine"
    code.mkdir()
    shutil.copy(Path(__file__).parent / "bad_methods.py", code / "my_methods.py")
    (folder / "configs/method/slow.yaml").write_text("# @package methods.slow\n_target_: my_methods.Slow\nk: [1, 2]\n")
    blocker = slurm("sbatch", "--parsable", "-w", "node3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600")
    path = f"{code}:{environment()['PYTHONPATH']}"
    parent = sweep(folder, OTHERS["node3"], *SLOW, "model=any", "model.path=m0", *WORDS, PYTHONPATH=path)
    until(lambda: (folder / "sweep/submissions.jsonl").exists() and jobs(folder))
    assert states(folder) == ["waiting"]
    (folder / "configs/method/slow.yaml").write_text("# @package methods.slow\n_target_: my_methods.Slow\nk: [7]\n")
    with (code / "my_methods.py").open("a") as file:
        file.write("\n# edited\n")
    slurm("scancel", blocker.strip())
    assert parent.wait(300) == 1
    [only] = look(manifest(folder))
    assert only.state == "failed" and "refused: method my_methods changed since the sweep was submitted" in only.why
    assert not (folder / "results").exists()
    monkeypatch.syspath_prepend(code)
    with pytest.raises(UserError, match=r"method my_methods changed since .* resume .* --new-code"):
        resume(manifest(folder))
    taken = begin(folder, "sparq_eval.sweep", "resume", "sweep", "--new-code", PYTHONPATH=path)
    until(lambda: rows(folder, "m0"))
    slurm("scontrol", "requeue", jobs(folder)[0].id)
    assert taken.wait(300) == 0, (folder / "said").read_text()
    assert restarts(folder) == [1]
    found = [each for name, each in rows_told(folder).items() if not name.endswith(PROMPTS)]
    assert found and all(len({json.loads(row)["index"] for row in each}) == len(each) == 5 for each in found)
    settings = [json.loads(path.read_bytes())["identity"]["settings"] for path in folder.glob("results/**/record.json")]
    assert sorted(one["k"] for one in settings if one) == [1, 2], "the config is the one that was submitted"


def test_cells_that_are_signalled_killed_and_crashed_end_with_the_same_bytes(
    on: Path, made: Path, folder: Path
) -> None:
    # slow enough for the first to be at work still when the last has begun
    models = f"model.path={','.join(MODELS)}"
    parent = sweep(folder, OTHERS["node1 and node2"], *SLOW, "model=any", models, *WORDS, SLOW="0.08")
    until(lambda: all(rows(folder, name) >= 2 for name in MODELS))
    at = jobs(folder)
    slurm("scancel", "--signal=USR2", at[0].id)  # as a preemption that warns
    pid = json.loads((next(manifest(folder).folder.glob("cells/0002-*")) / "lease").read_bytes())["pid"]
    os.kill(pid, signal.SIGKILL)  # as the kernel does where memory is short: Slurm does not requeue it
    where = slurm("squeue", "-h", "-r", "-j", at[1].id, "-o", "%N").strip()
    node(on, "kill-node", where)
    parent.wait(400)
    node(on, "start-node", where)
    assert set(states(folder)) <= {"done", "failed"} and "done" in states(folder)
    if "failed" in states(folder):  # the one that was killed, if it was not on the node that crashed
        assert parent.returncode == 1
        [lost] = [each for each in look(manifest(folder)) if each.state == "failed"]
        assert lost.cell.number == 2 and "ended without a word" in lost.why
        assert resume(manifest(folder)) == 0
        assert json.loads((folder / "sweep/submissions.jsonl").read_text().splitlines()[-1])["cells"] == [2]
    assert states(folder) == ["done"] * 3
    assert rows_told(folder) == uninterrupted(made, MODELS)


def meet_limits(folder: Path) -> Path:
    """A sweep on a node of its own whose parent is killed, which is preempted without grace and meets a time limit."""
    held = folder / "held"
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=25")
    parent = sweep(
        folder, OTHERS["node4"], *SLOW, "model=any", "model.path=m0", *WORDS, *limits, HELD=str(held), SLOW="0.1"
    )
    until(lambda: rows(folder, "m0"))
    # Slurm signals 5 to 35 s after a start, so which of the two comes first is chance: the work waits for both
    held.touch()
    subprocess.run(["pkill", "-9", "-P", str(parent.pid)], check=False)  # the launcher
    parent.kill()
    parent.wait()

    def both() -> bool:
        if "DUE TO PREEMPTION" not in said(folder) and jobs(folder)[0].state == "RUNNING":
            words = ("-p", "urgent", "-w", "node4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
            urgent = slurm("sbatch", "--parsable", *words).strip()
            until(lambda: slurm("squeue", "-h", "-j", urgent, "-o", "%T").strip() in ("COMPLETED", ""))
        return all(f"DUE TO {why}" in said(folder) for why in ("PREEMPTION", "JOB REQUEUE"))

    until(both, 400)
    held.unlink()
    resumed = begin(folder, "sparq_eval.sweep", "resume", "sweep")
    assert resumed.wait(300) == 0, (folder / "said").read_text()
    return folder


def test_a_parent_that_is_killed_a_preemption_without_grace_and_a_time_limit_lose_nothing(
    made: Path, limited: Future[Path]
) -> None:
    folder = limited.result()
    assert "nothing to send off" in (folder / "said").read_text()
    assert len((folder / "sweep/submissions.jsonl").read_text().splitlines()) == 1
    assert rows_told(folder) == uninterrupted(made, ("m0",))
    assert restarts(folder)[0] >= 2
    assert "could not be answered" not in said(folder), "the end of a job is no setting's fault"
