"""From the words of a command to cells: one model and one task each, its config composed once and for all."""

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
from sparq_eval.overrides import CONFIGS, pins, read_line
from sparq_eval.progress import say
from sparq_eval.results.record import digest, safe

OWN = ("sweep_dir", "cell")
SUBMISSIONS = "submissions.jsonl"  # in a sweep's folder: what of its cells was sent off


@dataclass(frozen=True)
class Words:
    """A command line in parts. measured: what is measured. launched: how jobs are sent off. configs: a folder of the
    user's own.
    """

    measured: tuple[str, ...]
    launched: tuple[str, ...]
    configs: Path | None
    sweep_dir: Path | None

    @staticmethod
    def of(arguments: Sequence[str], cwd: Path | None = None) -> "Words":
        """cwd: where its relative paths begin, if not here."""
        measured, launched = list[str](), list[str]()
        line, here, sweep_dir = read_line(arguments), cwd or Path.cwd(), None
        if other := line.config_name or line.config_path:
            raise UserError(f"{other}: a sweep is composed from the config of this package; --config-dir adds to it")
        for word in line.overrides:
            key = word.lstrip("+~").split("=")[0]
            if key == "sweep_dir" and "=" in word:
                value = value_of(word)
                sweep_dir = here / Path(value).expanduser() if value else None
            elif key == "hydra" or key.startswith(("hydra.", "hydra/")):
                launched.append(word)
            else:
                measured.append(word)
        configs = None if line.config_dir is None else here / line.config_dir
        return Words(tuple(measured), tuple(launched), configs, sweep_dir)

    @property
    def flags(self) -> list[str]:
        """What tells Hydra's command line of the user's own configs. Jobs have theirs frozen: they may be gone."""
        return ["--config-dir", str(self.configs)] if self.configs and self.configs.is_dir() else []

    @property
    def searched(self) -> list[str]:
        """The user's own configs, as Hydra takes them where it is called and not run."""
        return [] if self.configs is None else [f"hydra.searchpath=['file://{quoted(self.configs)}']"]


@dataclass(frozen=True)
class Cell:
    """One model on one task. config: all that its job will read, whatever becomes of the files it was composed from."""

    number: int
    model: str
    task: str
    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest(self.config)

    @property
    def name(self) -> str:
        """Its folder in the sweep."""
        return f"{self.number:04}-{safe(self.model)}-{safe(self.task)}"


def cut(words: Words) -> list[Cell]:
    """All cells of a command, every one of them checked. UserError as for a run."""
    if words.configs and not words.configs.is_dir():
        raise UserError(f"--config-dir={words.configs}: must be a folder that is there")
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


def value_of(word: str) -> str:
    """What an override gives, without its quotes; "" for null. UserError where that is no single value."""
    try:
        given = OverridesParser.create().parse_override(word)
        if given.is_sweep_override():
            raise ValueError("it has several values")
        return "" if given.value() is None else str(given.value())
    except (HydraException, ValueError, RecursionError) as error:
        why = str(error).strip().split("\n")[0]
        raise UserError(f"{word}: cannot be read ({why}); a value with such characters needs quotes") from error


def quoted(path: Path) -> str:
    """A path as it stands between single quotes in an override."""
    return str(path).replace("\\", "\\\\").replace("'", "\\'")


def choices(measured: Sequence[str]) -> list[list[str]]:
    """Each combination of what is swept over, as Hydra would make them."""
    parsed: list[Override] = OverridesParser.create().parse_overrides(list(measured))
    try:
        return BasicSweeper.split_arguments(parsed, None)[0]
    except HydraException as error:
        raise UserError(f"{' '.join(measured)}: {error}; give the values, separated by commas") from error
