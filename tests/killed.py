"""Runs of a tiny model that are really killed: each is a process of its own, forked so that it starts at once."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from library import write_model, write_tasks
from omegaconf import OmegaConf

from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.overrides import CONFIGS
from sparq_eval.results import disk

TASKS = ["lm_eval/my_words", "lm_eval/my_choice", "lm_eval/my_text"]
TIMES = ("started", "seconds", "peak_memory")


def make(folder: Path) -> Path:
    """The model and the tasks, as files."""
    write_tasks(folder / "tasks")
    write_model(folder / "model")
    return folder


def overrides(folder: Path, results: Path | str = "results") -> list[str]:
    """The words of a command that measures them."""
    return [
        *("model=any", f"model.path={folder / 'model'}", f"include_path={folder / 'tasks'}", f"results_dir={results}"),
        *(f"task=[{','.join(TASKS)}]", "method=[sparq,h2o]", "k=[8,12]", "r=4", "samples=5", "batch_size=2"),
    ]


def settings_of(words: list[str]) -> Settings:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        composed: Any = OmegaConf.to_container(compose("config", words), resolve=True)
    return read_settings({key: value for key, value in composed.items() if key not in ("cell", "sweep_dir")})


def in_process(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    """A process that does this and ends."""

    def alone() -> None:
        # threads of the parent are not there after a fork: one is enough for a tiny model
        torch.set_num_threads(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


def whole_run(settings: Settings) -> None:
    process = in_process(lambda: run(settings) and None)
    process.join(120)
    assert process.exitcode == 0


def killed_at(settings: Settings, moment: int, torn: bool = False) -> bool:
    """Run until the `moment`-th time that the store asks for its bytes to be on disk, and be killed there."""
    return killed_in(lambda: run(settings) and None, moment, torn)


def killed_in(story: Callable[[], None], moment: int, torn: bool = False) -> bool:
    """Be killed the `moment`-th time that bytes are to be on disk: before they are, or, torn, with half of the last
    line missing. False if the story ended before.
    """
    right = disk.keep

    def work() -> None:
        calls = 0

        def keep(file: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                if torn:
                    file.flush()
                    last = Path(file.name).read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
                    os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - len(last) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            right(file)

        disk.keep = keep
        story()

    process = in_process(work)
    process.join(120)
    return process.exitcode == -signal.SIGKILL


def told(results: Path) -> dict[str, Any]:
    """All that is in the results but times: rows as bytes in their order, records less what says when."""
    found: dict[str, Any] = {}
    for path in sorted(results.rglob("record.json")):
        record = json.loads(path.read_bytes())
        for one in record["runs"]:
            one["config"].pop("results_dir")
        runs = [json.dumps({k: v for k, v in one.items() if k not in (*TIMES, "samples")}) for one in record["runs"]]
        counted = sum(one["samples"] for one in record["runs"])
        record["summary"].pop("seconds")
        record.pop("seal")
        rows = []
        for line in (path.parent / "samples.jsonl").read_bytes().splitlines():
            row = json.loads(line)
            row.pop("seconds"), row.pop("crc")
            rows.append(json.dumps(row))
        found[str(path.parent.relative_to(results))] = (record | {"runs": sorted(set(runs))}, counted, rows)
    for path in sorted(results.rglob("prompts.jsonl")):
        lines = path.read_bytes().splitlines()
        found[str(path.relative_to(results))] = ({}, len(lines), lines)
    return found
