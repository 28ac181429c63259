"""What a sweep measures with: the package, methods and what they import, task definitions, versions; and what of it
has changed.
"""

import ast
import hashlib
import inspect
import os
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparq_eval.evaluate.expand import kind_of
from sparq_eval.evaluate.provenance import commit, versions
from sparq_eval.overrides import PACKAGE
from sparq_eval.results.analysis import is_analysis
from sparq_eval.results.bench import is_bench
from sparq_eval.results.prompts import PROMPTS
from sparq_eval.results.record import digest
from sparq_eval.results.store import RECORD
from sparq_eval.sweep.cells import SUBMISSIONS, Cell

KINDS = (".py", ".yaml")
INCLUDED = "include_path="
REPORTED = {"index.html", "results.csv"}  # in a folder that a report was written to
LARGE = 1 << 26  # bytes; of a larger file size and time of change count, for its content takes too long to read
PASSING = (".log", ".out", ".err", ".lock", ".tmp", ".pyc")  # what programs leave behind as they run


def code_of(cells: Sequence[Cell], sweep: Path) -> dict[str, Any]:
    """What measures: sources of the package, its tasks, the methods, modules of the user's that these import, all that
    is in the folders of task definitions, and the versions of what they stand on.

    sweep: the folder of the sweep, which is no part of what measures wherever it is.
    """
    sources = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    for folder in (PACKAGE / "tasks", PACKAGE.parent / "tasks"):
        sources |= {f"tasks/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.suffix in KINDS}
    for node in {cell.digest: cell.config["methods"] for cell in cells}.values():
        for name, method in node.items():
            kind = kind_of(name, method)
            if not kind.__module__.startswith("sparq_eval."):
                path = Path(inspect.getfile(kind))
                sources |= imported(path, kind.__module__, {}) | {f"method {kind.__module__}": path}
    apart = {Path(cell.config["results_dir"]).resolve() for cell in cells} | {sweep.resolve()}
    for given in sorted({str(cell.config["include_path"]) for cell in cells if cell.config["include_path"]}):
        sources |= definitions(given, apart)
    for name in [name for name in sources if name.startswith("method ")]:
        sources.pop(name.replace("method ", "module ", 1), None)
    files = {name: fingerprint(path) for name, path in sorted(sources.items())}
    return {"sha256": digest(files), "files": files, "versions": versions(), "commit": commit()}


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What differs between the code that a sweep was submitted with and the code that is here, in words."""
    for what in ("files", "versions"):
        names = sorted(name for name in then[what].keys() | now[what].keys() if name in then[what] or may_be_read(name))
        if differing := [name for name in names if then[what].get(name) != now[what].get(name)]:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            return f"{differing[0]}{more} changed since the sweep was submitted"
    return None


def may_be_read(name: str) -> bool:
    """Whether a file that was not there may be read by what was: among task definitions only code is found by itself,
    and data that nobody names are results, reports or notes.
    """
    return not name.startswith(INCLUDED) or name.endswith(KINDS)


def definitions(given: str, apart: Collection[Path]) -> dict[str, Path]:
    """Every file in a folder of task definitions, but for what is hidden, results, sweeps and what runs leave."""
    found, modules = dict[str, Path](), dict[str, Path]()
    root = Path(given).expanduser().absolute()
    seen = {*apart}
    for folder, below, names in os.walk(root, followlinks=True):
        here = Path(folder)
        seen.add(here.resolve())
        if RECORD in names or {*names} >= REPORTED:
            below.clear()
            continue
        below[:] = [name for name in below if counts(here / name) and (here / name).resolve() not in seen]
        for path in (here / name for name in names):
            if counts(path) and path.is_file():
                found[f"{INCLUDED}{given}: {path.relative_to(root)}"] = path
                imported(path, "", modules)
    return found | modules


def counts(path: Path) -> bool:
    """Whether a file or folder may be part of what is measured by where it is and what it is called."""
    passing = path.name.startswith((".", "__pycache__")) or path.suffix in PASSING or path.name == PROMPTS
    passing = passing or is_bench(path.name) or is_analysis(path.name)
    return not passing and not (path / SUBMISSIONS).exists()


def imported(path: Path, module: str, found: dict[str, Path]) -> dict[str, Path]:
    """Add the files of all modules of the user's that a source imports, or those do in turn, by `module <name>`.

    Found by reading, so that every process finds the same, whatever it has loaded. module: the name of the source.
    found: of other sources, which are not read again.
    """
    todo = [(path, module)]
    while todo:
        path, module = todo.pop()
        for name in names_in(path, module):
            for part, file in files_of(name):
                if f"module {part}" not in found:
                    found[f"module {part}"] = file
                    todo.append((file, part))
    return found


def names_in(path: Path, module: str) -> Iterator[str]:
    """Modules that a source may import, by their whole names, wherever in it; names that are none do no harm."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    within = [*module.split("."), *(["__init__"] if path.name == "__init__.py" else [])]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = [*(within[: -node.level] if node.level else []), *([node.module] if node.module else [])]
            yield from (".".join([*stem, alias.name]) for alias in node.names)


def files_of(name: str) -> Iterator[tuple[str, Path]]:
    """The module of this name and the packages that it is in, as far as there are such, each with its file."""
    parts = name.split(".")
    spec = outermost(parts[0])
    for n in range(1, len(parts) + 1):
        part = ".".join(parts[:n])
        if n > 1:
            spec = inner(part, spec.submodule_search_locations or ()) if spec else None
        if spec is None or (spec.has_location and spec.origin and not is_users(Path(spec.origin))):
            return
        if spec.has_location and spec.origin:
            yield part, Path(spec.origin)


def outermost(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ValueError, ImportError):
        return None


def inner(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """A module in a package that need not have been imported, as Python's own search would ask."""
    loaders = (SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
    return next(filter(None, (FileFinder(folder, *loaders).find_spec(name) for folder in folders)), None)


def is_users(file: Path) -> bool:
    """Whether it is neither Python's, nor installed, nor ours."""
    if {"site-packages", "dist-packages"} & {*file.parts} or file.is_relative_to(PACKAGE):
        return False
    return not any(file.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


def fingerprint(path: Path) -> str:
    """The digest of a file; of a large one, its size and the time of its last change."""
    seen = path.stat()
    if seen.st_size > LARGE:
        return f"{seen.st_size} bytes of {seen.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()
