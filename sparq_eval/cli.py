"""The command line: `python -m sparq_eval key=value …`, composed by Hydra from configs/."""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from sparq_eval.errors import UserError
from sparq_eval.overrides import CONFIGS, check_overrides, of_one_run, pins, read_line, shows
from sparq_eval.progress import fail, say, unread


def main() -> None:
    """Run, or say in one sentence what is wrong and exit with status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = sys.argv[1:]
    try:
        check_overrides(arguments)
        line = read_line(arguments)
        if line.multirun and shows(line):
            sys.argv[1:] = of_one_run(arguments)
        # a sweep's own jobs name their cell
        elif line.multirun and not any(word.startswith("cell=") for word in line.overrides):
            from sparq_eval.sweep.submit import sweep

            sys.exit(sweep(arguments))
    except UserError as error:
        fail(error)
    except BrokenPipeError:
        unread()
    compose()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def compose(config: DictConfig) -> None:
    # torch and transformers take seconds to import: not before the command line is known to be right
    from sparq_eval.evaluate.settings import check_pins, read_settings

    try:
        composed: Any = OmegaConf.to_container(config, resolve=True)
        folder, cell = composed.pop("sweep_dir"), composed.pop("cell")
        if cell is not None:
            from sparq_eval.sweep.work import work

            work(Path(folder), cell)
            return
        check_pins(composed, pins(composed["protocol"]))
        settings = read_settings(composed)
        from sparq_eval.evaluate.run import run
        from sparq_eval.report import report_run

        entries = [entry for cell in run(settings) for entry in cell.entries]
        report_run(settings.results_dir, [entry.path for entry in entries])
        if failed := [entry for entry in entries if entry.failure]:
            say(f"{len(failed)} of {len(entries)} settings failed; their records say why")
            sys.exit(1)
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        say("stopped: what was measured is kept, and the same command goes on from there")
        sys.exit(130)
