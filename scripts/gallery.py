"""Draws the gallery: every figure and table of the paper that the committed records give, and the README's pictures."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.image import imread
from PIL import Image

from sparq_eval.report.canvas import save
from sparq_eval.report.chart import compose
from sparq_eval.report.figures import XLABEL, grid, plan
from sparq_eval.report.paper.catalogue import CATALOGUE
from sparq_eval.report.paper.drawing import Drawing
from sparq_eval.report.paper.kernels import micro
from sparq_eval.report.paper.models import Missing
from sparq_eval.report.paper.sources import Sources, load_sources
from sparq_eval.report.paper.story import draw_one
from sparq_eval.report.style import RC
from sparq_eval.results.analysis import is_analysis
from sparq_eval.results.bench import is_bench

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "results", ROOT / "docs"
GALLERY = DOCS / "gallery"
README_MODELS = ("qwen2.5-coder-1.5b", "smollm2-135m")
SPEED_UP = "-float16-H32-G1-D128-"
COLOURS = 255  # of a picture; what is drawn has fewer than it seems
HEAD = """# Gallery

Every figure and table of the paper ([arXiv 2312.04985](https://arxiv.org/abs/2312.04985)) that the records under
`results/` give, by the paper's names; nothing here is from the paper itself. Drawn by `scripts/gallery`;
`python -m sparq_eval.report RESULTS --figure NAME` draws one, also as SVG, and `--published DIR` lays the paper's
numbers under it.
"""


def main() -> None:
    sources = load_sources(RESULTS, None)
    shutil.rmtree(GALLERY, ignore_errors=True)
    GALLERY.mkdir(parents=True)
    parts, lacking = [HEAD], []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for name, entry in CATALOGUE.items():
            written, drawing = draw_one(name, sources, out, None)
            kept = [keep(path) for path in written if path.suffix in (".png", ".md")]
            if kept:
                parts.append(section(name, entry.title, kept, drawing, sources))
            else:
                lacking.append((name, entry.title, drawing.missing))
        readme_pictures(sources, out)
    parts.append(undrawn(lacking))
    (DOCS / "gallery.md").write_text("\n".join(parts), encoding="utf-8")
    size = sum(path.stat().st_size for path in (*DOCS.glob("*.png"), *GALLERY.iterdir()))
    print(f"{DOCS / 'gallery.md'}: {len(parts) - 2} figures and tables, with the README's {size / 1e6:.1f} MB")


def keep(path: Path) -> Path:
    """A copy for the gallery; of a picture with few colours, which is a third of the size and looks the same."""
    kept = GALLERY / path.name
    if path.suffix == ".png":
        smaller(path, kept)
    else:
        shutil.copyfile(path, kept)
    return kept


def smaller(path: Path, kept: Path) -> None:
    assert imread(path).std() > 0.01, f"{path.name} is blank"
    Image.open(path).convert("RGB").quantize(COLOURS).save(kept, optimize=True)


def section(name: str, title: str, kept: Iterable[Path], drawing: Drawing, sources: Sources) -> str:
    lines = [f"## {name}: {title}", ""]
    for path in kept:
        place = f"gallery/{path.name}"
        lines += [f"![{title}]({place})" if path.suffix == ".png" else f"[{path.name}]({place})", ""]
    said = "; ".join(drawing.notes)
    lines += [f"*{caption(drawing.records, sources)}{f' ({said})' if said else ''}.*", ""]
    return "\n".join(lines)


def caption(used: Iterable[str], sources: Sources) -> str:
    """Where the records lie: folders with how many of theirs were used, files of benchmarks and analyses."""
    wanted = set(used)
    own = sources.records[sources.records["key"].isin(wanted)]
    folders = pd.Series([Path(path).parent.relative_to(ROOT).parent for path in own["path"]]).value_counts(sort=False)
    alone = [path for path in RESULTS.rglob("*.json") if is_bench(path.name) or is_analysis(path.name)]
    files = sorted(path for path in alone if path.stem[-12:] in wanted)
    named = [f"`{folder}` ({count} records)" for folder, count in folders.items()]
    return "From " + ", ".join([*named, *(f"`{path.relative_to(ROOT)}`" for path in files)])


def readme_pictures(sources: Sources, out: Path) -> None:
    """docs/trade-off.png is Figure 1; a grid for each of two models; speed-up.png: an H100 over positions."""
    smaller(out / "fig1.png", DOCS / "trade-off.png")
    h100 = load_sources(RESULTS / "h100", None)
    with matplotlib.rc_context(RC):
        for name, title, panels in plan(h100.records, "counted"):
            if title in README_MODELS:
                save(grid(title, panels, XLABEL["counted"]), out / name)
                smaller(out / f"{name}.png", DOCS / f"{title}.png")
        [plot] = [plot for plot in micro(sources, ["-batches"]) if "H100" in plot.name and SPEED_UP in plot.name]
        save(compose(plot), out / "speed-up")
        smaller(out / "speed-up.png", DOCS / "speed-up.png")


def undrawn(lacking: Iterable[tuple[str, str, Iterable[Missing]]]) -> str:
    lines = ["## Not drawn yet", "", "There are no records for these; the commands measure what they need.", ""]
    for name, title, missing in lacking:
        commands = list(dict.fromkeys(one.command for one in missing))
        more = f" and {len(commands) - 1} more that `--figure {name}` names" if len(commands) > 1 else ""
        lines.append(f"- {name}, {title}: `{commands[0]}`{more}" if commands else f"- {name}, {title}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
