"""From the words of a command to cells: one model and one task each, its config composed once and for all."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from sparq_eval.errors import UserError
from sparq_eval.evaluate.plan import named
from sparq_eval.evaluate.settings import check_pins, read_settings
from sparq_eval.overrides import CONFIGS, pins
from sparq_eval.progress import say
from sparq_eval.results.record import canonical, safe

OWN = ("sweep_dir", "cell")


@dataclass(frozen=True)
class Words:
    """A command line in parts. measured: what is measured. launched: how jobs are sent off. flags: for Hydra itself."""

    measured: tuple[str, ...]
    launched: tuple[str, ...]
    flags: tuple[str, ...]
    sweep_dir: Path | None

    @staticmethod
    def of(arguments: Sequence[str]) -> "Words":
        measured, launched, flags = list[str](), list[str](), list[str]()
        sweep_dir = None
        words = iter(arguments)
        for word in words:
            key = word.lstrip("+~").split("=")[0]
            if word in ("-m", "--multirun"):
                continue
            if word in ("--config-dir", "-cd"):
                flags += [word, str(Path(next(words, "")).absolute())]
            elif word.startswith("-"):
                flags.append(word)
            elif key == "sweep_dir" and "=" in word:
                sweep_dir = Path(word.split("=", 1)[1]).expanduser().absolute()
            elif key == "hydra" or key.startswith(("hydra.", "hydra/")):
                launched.append(word)
            else:
                measured.append(word)
        return Words(tuple(measured), tuple(launched), tuple(flags), sweep_dir)

    @property
    def searched(self) -> list[str]:
        """The user's own folders of configs, as Hydra takes them where it is called and not run."""
        folders = [flag.split("=", 1)[1] for flag in self.flags if flag.startswith("--config-dir=")]
        folders += [folder for flag, folder in itertools.pairwise(self.flags) if flag in ("--config-dir", "-cd")]
        return [f"hydra.searchpath=[{','.join(f'file://{Path(folder).absolute()}' for folder in folders)}]"] * bool(
            folders
        )


@dataclass(frozen=True)
class Cell:
    """One model on one task. config: all that its job will read, whatever becomes of the files it was composed from."""

    number: int
    model: str
    task: str
    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return hashlib.sha256(canonical(self.config).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Its folder in the sweep."""
        return f"{self.number:04}-{safe(self.model)}-{safe(self.task)}"


def cut(words: Words) -> list[Cell]:
    """All cells of a command, every one of them checked. UserError as for a run."""
    ConfigStore.instance()
    found: dict[str, Cell] = {}
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        for choice in choices(words.measured):
            try:
                composed: Any = OmegaConf.to_container(compose("config", [*choice, *words.searched]), resolve=True)
            except HydraException as error:
                raise UserError(f"{' '.join(choice)}: {str(error).splitlines()[0]}") from error
            config = {key: value for key, value in composed.items() if key not in OWN}
            check_pins(config, pins(config["protocol"]))
            for task in read_settings(config).tasks:
                cell = Cell(len(found), str(named(config["model"])["name"]), task, {**config, "task": task})
                found.setdefault(cell.digest, cell)
    cells = list(found.values())
    if len({(cell.model, cell.task) for cell in cells}) < len(cells):
        say("note: some cells have the same model and task, and each prefills for itself; a list, k=[64,128], shares")
    return cells


def choices(measured: Sequence[str]) -> list[list[str]]:
    """Each combination of what is swept over, as Hydra would make them."""
    parsed: list[Override] = OverridesParser.create().parse_overrides(list(measured))
    try:
        return BasicSweeper.split_arguments(parsed, None)[0]
    except HydraException as error:
        raise UserError(f"{' '.join(measured)}: {error}; give the values, separated by commas") from error
