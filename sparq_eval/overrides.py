"""What may be overridden: mistakes are refused in words that name the key, the value and what would be right."""

import argparse
import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from sparq_eval.errors import UserError

PACKAGE = Path(__file__).parent
# beside the package in a checkout, inside it when installed
CONFIGS = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())


def read_line(arguments: Sequence[str]) -> argparse.Namespace:
    """A command line as Hydra reads it, flags and overrides in any order: `overrides`, `config_dir`, `multirun`, …

    UserError for a flag that is none. --version is answered here, and ends the program.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(message)

    parser = get_args_parser()
    parser.error = refuse
    return parser.parse_intermixed_args(list(arguments))


def shows(line: argparse.Namespace) -> bool:
    """Whether the line asks to be shown something, so that nothing is to be run."""
    return bool(line.help or line.hydra_help or line.cfg or line.info or line.shell_completion)


def of_one_run(arguments: Sequence[str]) -> list[str]:
    """A sweep's command line less what makes it one: Hydra shows nothing of sweeps."""

    def swept(word: str) -> bool:
        try:
            return bool(OverridesParser.create().parse_overrides([word])[0].is_sweep_override())
        except OverrideParseException:
            return False  # Hydra says what is wrong with it

    swept_over = {word for word in read_line(arguments).overrides if swept(word)}
    return [word for word in arguments if word not in {"-m", "--multirun", *swept_over}]


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse keys and choices that do not exist, with the nearest that do, before Hydra's longer words for it."""
    line = read_line(arguments)
    words = [word for word in line.overrides if "=" in word]
    check_grid(words)
    if line.config_dir is not None:
        return  # the user brings configs that are not known here
    config = yaml.safe_load((CONFIGS / "config.yaml").read_text(encoding="utf-8"))
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    known = {key for key in config if key != "defaults"} | groups | {"methods"}
    for word in words:
        try:
            [override] = OverridesParser.create().parse_overrides([word])
        except OverrideParseException as error:
            raise UserError(f"{word}: cannot be read as key=value ({str(error).splitlines()[0]})") from None
        key = override.key_or_group
        top = key.split(".")[0].split("/")[0]
        if top not in known and not override.is_add():
            raise UserError(f"{word}: there is no key {top}; {suggest(top, known)}")
        if key == "hydra/launcher":
            check_launcher(word, str(override.value()))
        if key in groups:
            check_choices(key, override.value(), override.is_sweep_override())


def check_launcher(word: str, name: str) -> None:
    if name in ("slurm", "local") and importlib.util.find_spec("submitit") is None:
        raise UserError(f"{word}: submitit is not installed here; `pip install .[cluster]` brings it")


def check_grid(words: Sequence[str]) -> None:
    """A grid replaces what the methods' configs list, so a change of them would be lost without a word."""
    grid = next((word for word in words if word.startswith("grid=")), None)
    for word in words:
        if grid and word.lstrip("+~").startswith("methods."):
            raise UserError(f"{word}: {grid} brings its own settings of each method; leave one of them out")


def check_choices(group: str, value: object, sweep: bool) -> None:
    known = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    chosen = value if isinstance(value, list) else [value]
    if sweep:
        return
    for name in ("null" if choice is None else choice for choice in chosen):
        if not isinstance(name, str) or name not in known:
            raise UserError(f"{group}={name}: there is no such {group}; {suggest(str(name), known)}")


def suggest(word: str, known: set[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"


def pins(protocol: str) -> dict[str, Any]:
    """What a protocol sets; one from the user's own configs pins nothing."""
    path = CONFIGS / "protocol" / f"{protocol}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
