"""`python -m sparq_eval.analyse key=value …`: what attention looks like in a model, composed from the same configs."""

import os
import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from sparq_eval.errors import UserError
from sparq_eval.overrides import CONFIGS, check_overrides, pins
from sparq_eval.progress import fail, say

PROGRAM = "sparq_eval.analyse"
# what a run decides and an analysis does not
UNUSED = (
    *("method", "methods", "grid", "compression", "baseline", "min_k", "local", "stop", "prompt", "accounting"),
    *("batch_size", "backend", "speed", "sweep_dir", "cell", "hydra/launcher"),
)


def main() -> None:
    """Analyse, or say in one sentence what is wrong and exit with status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        check_overrides(sys.argv[1:])
        check_used(sys.argv[1:])
    except UserError as error:
        fail(error, PROGRAM)
    compose()


def check_used(arguments: list[str]) -> None:
    for word in arguments:
        key = word.lstrip("+~").split("=")[0]
        if word in ("-m", "--multirun") or key.split(".")[0] in UNUSED:
            raise UserError(f"{word}: an analysis has no use for it; leave it out")


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def compose(config: DictConfig) -> None:
    # torch and transformers take seconds to import: not before the command line is known to be right
    from sparq_eval.analyse.run import run
    from sparq_eval.evaluate.settings import check_pins, read_settings

    try:
        composed: Any = OmegaConf.to_container(config, resolve=True)
        check_pins(composed, pins(composed["protocol"]))
        for unused in ("sweep_dir", "cell"):
            composed.pop(unused)
        # the only method whose budgets are looked at
        composed["methods"] = {"sparq": composed["methods"]["sparq"]}
        for path in run(read_settings(composed), rs=composed["r"], ks=composed["k"]):
            print(f"record: {path}")
    except UserError as error:
        fail(error, PROGRAM)
    except KeyboardInterrupt:
        say("stopped: an analysis is recorded when all its prompts have been seen")
        sys.exit(130)


if __name__ == "__main__":
    main()
