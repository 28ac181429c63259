"""What a sweep was when it was submitted: its cells with their whole configs, and the code that was to measure them."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.results.disk import keep
from sparq_eval.results.record import digest
from sparq_eval.sweep.cells import Cell, Words
from sparq_eval.sweep.code import code_of

MANIFEST, SCHEMA = "manifest.json", 1


@dataclass(frozen=True)
class Manifest:
    """folder: where the sweep is kept. command: the words it was made by. cwd: where relative paths begin.

    code: of each cell, what would measure it: a digest of the sources, versions, and the commit for people to read.
    """

    folder: Path
    command: tuple[str, ...]
    cwd: Path
    code: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    def place(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name

    @property
    def words(self) -> Words:
        return Words.of(self.command, self.cwd)

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Where it was submitted: relative paths, and modules that lie there, are those that it was submitted with."""
        home = str(self.cwd)
        if not self.cwd.is_dir():
            raise UserError(f"{self.folder}: {home}, where it was submitted and its relative paths begin, is gone")
        sys.path.insert(0, home)
        try:
            with chdir(home):
                yield
        finally:
            sys.path.remove(home)


def frozen(folder: Path, command: Sequence[str], cells: Sequence[Cell]) -> Manifest:
    """The sweep in `folder`: as it was submitted before, or written now. UserError if another one is there."""
    if (folder / MANIFEST).exists():
        there = read(folder)
        if [cell.digest for cell in there.cells] != [cell.digest for cell in cells]:
            raise UserError(
                f"sweep_dir={folder}: holds another sweep ({different(there.cells, cells)}); choose another folder, or "
                f"go on with that one by `python -m sparq_eval.sweep resume {folder}`"
            )
        return there
    made = Manifest(folder, tuple(command), Path.cwd(), {}, tuple(cells))
    # as its jobs will look at it: what they find beside them is not always found by the command that sends them off
    with made.at_home():
        made = replace(made, code=code_of(cells, folder))
    write(made)
    return made


def write(manifest: Manifest) -> None:
    content = {
        "schema": SCHEMA,
        "command": list(manifest.command),
        "cwd": str(manifest.cwd),
        "code": manifest.code,
        "cells": [asdict(cell) for cell in manifest.cells],
    }
    put(manifest.folder / MANIFEST, content | {"digest": digest(content)})


def read(folder: Path) -> Manifest:
    """UserError where there is no sweep, or where its manifest is not what was written."""
    folder = Path(folder).absolute()
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: there is no sweep here; give the folder that it was submitted to (sweeps/<name>)")
    try:
        content = json.loads(path.read_bytes())
        stated = content.pop("digest")
        if stated != digest(content) or content["schema"] != SCHEMA:
            raise ValueError("it was changed after it was written")
        cells = tuple(Cell(**cell) for cell in content["cells"])
        return Manifest(folder, tuple(content["command"]), Path(content["cwd"]), content["code"], cells)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be trusted ({error}); submit the sweep again to another folder") from error


def different(there: Sequence[Cell], cells: Sequence[Cell]) -> str:
    if len(there) != len(cells):
        return f"{len(there)} cells there, {len(cells)} now"
    from sparq_eval.evaluate.settings import flat

    for one, other in zip(there, cells, strict=True):
        before, after = flat(one.config), flat(other.config)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                return f"{key}={before.get(key)} there, {after.get(key)} now"
    return "other cells"


def put(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in one step: a reader sees the old content or the new one, whenever the power goes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with aside.open("wb") as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
            keep(file)
        aside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror})") from error
