"""The story of `--figure`: for each name draw, write, and say from which records, and what is missing."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib

from sparq_eval.errors import UserError
from sparq_eval.report.paper.analysis import draw_analysis
from sparq_eval.report.paper.catalogue import CATALOGUE
from sparq_eval.report.paper.drawing import Drawing, write, write_origin
from sparq_eval.report.paper.models import Missing
from sparq_eval.report.paper.sources import Sources, load_sources, require_known
from sparq_eval.report.style import RC

SHOWN = 5  # keys of records on a line; all of them are in the figure's JSON
DIGITS = 12


def draw_figures(
    names: Sequence[str],
    root: Path,
    out: Path,
    *,
    published: Path | None = None,
    models: Collection[str] = (),
    tasks: Collection[str] = (),
    methods: Collection[str] = (),
    transfers: str = "counted",
) -> dict[str, list[Path]]:
    """Draw the named figures and tables of the paper, or `all`, from the records below `root` into `out`, print a line
    for each and then what is missing, and return the files of each. published: a folder with the paper's own numbers,
    laid under ours.

    UserError for an unknown name, no records at all, or an `out` that cannot be written.
    """
    chosen = require_known(names, CATALOGUE)
    sources = load_sources(root, published, models, tasks, methods, transfers)
    missing: dict[Missing, list[str]] = {}
    files = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            files[name], drawing = draw_one(name, sources, out, published)
            tell(name, files[name], drawing, out)
            for one in drawing.missing:
                missing.setdefault(one, []).append(name)
        tell_missing(missing)
    except OSError as error:
        raise UserError(f"out={out}: could not be written ({error.strerror}); choose another folder") from error
    return files


def draw_one(name: str, sources: Sources, out: Path, published: Path | None) -> tuple[list[Path], Drawing]:
    entry = CATALOGUE[name]
    if entry.draw is None:
        written, drawing = draw_analysis(name, sources, out, published)
        if written:
            write_origin(name, entry.title, drawing, written, out)
        return written, drawing
    with matplotlib.rc_context(RC):
        drawing = entry.draw(sources)
        return write(name, entry.title, drawing, out), drawing


def tell(name: str, written: Sequence[Path], drawing: Drawing, out: Path) -> None:
    """On standard output, one sentence a line."""
    if written:
        print(f"{name}: wrote {', '.join(path.name for path in written)} to {out}/" + origin(drawing.records, name))
    else:
        print(f"{name}: not drawn, there are no records for it")
    for note in drawing.notes:
        print(f"{name}: {note}")


def tell_missing(missing: Mapping[Missing, Sequence[str]]) -> None:
    """Each command once, with the figures that lack what it measures."""
    by_command: dict[str, tuple[str, list[str]]] = {}
    for one, names in missing.items():
        by_command.setdefault(one.command, (one.what, []))[1].extend(names)
    for command, (what, names) in by_command.items():
        print(f"missing: {what} ({', '.join(dict.fromkeys(names))}): {command}")


def origin(records: Sequence[str], name: str) -> str:
    if not records:
        return ""
    shown = ", ".join(key[:DIGITS] for key in records[:SHOWN])
    more = f" and others, all in {name}.json" if len(records) > SHOWN else ""
    return f" from {len(records)} record{'s' if len(records) > 1 else ''}: {shown}{more}"
