"""What a sweep was when it was submitted: its cells with their whole configs, and the code that was to measure them."""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.evaluate.expand import kind_of
from sparq_eval.evaluate.provenance import commit, versions
from sparq_eval.overrides import PACKAGE
from sparq_eval.results.disk import keep
from sparq_eval.results.record import canonical
from sparq_eval.sweep.cells import Cell, Words

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
        return Words.of(self.command)


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
    made = Manifest(folder, tuple(command), Path.cwd(), code_of(cells), tuple(cells))
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


def code_of(cells: Sequence[Cell]) -> dict[str, Any]:
    """What measures: sources of the package, its tasks and the methods, and the versions of what they stand on."""
    sources = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    for folder in (PACKAGE / "tasks", PACKAGE.parent / "tasks"):
        sources |= {f"tasks/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.suffix in KINDS}
    for node in {cell.digest: cell.config["methods"] for cell in cells}.values():
        for name, method in node.items():
            kind = kind_of(name, method)
            if not kind.__module__.startswith("sparq_eval."):
                sources[f"method {kind.__module__}"] = Path(inspect.getfile(kind))
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(sources.items())}
    return {"sha256": digest(files), "files": files, "versions": versions(), "commit": commit()}


KINDS = (".py", ".yaml")


def changed(manifest: Manifest, now: Mapping[str, Any]) -> str | None:
    """What differs between the code that the sweep was submitted with and the code that is here, in words."""
    then = manifest.code
    for what in ("files", "versions"):
        names = sorted(then[what].keys() | now[what].keys())
        if differing := [name for name in names if then[what].get(name) != now[what].get(name)]:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            return f"{differing[0]}{more} changed since the sweep was submitted"
    return None


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


def digest(content: object) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


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
