"""`python -m sparq_eval.report RESULTS [--out OUT] [--margin M] [--transfers …] [--published DIR]` and filters;
`--figure NAME …` draws the paper's figures, `--between A B` compares two settings, instead.
"""

import argparse
import math
from pathlib import Path

from rich.console import Console

from sparq_eval.errors import UserError
from sparq_eval.progress import fail
from sparq_eval.report.between import describe_pair
from sparq_eval.report.paper import draw_figures
from sparq_eval.report.terminal import terminal_table
from sparq_eval.report.write import write_report
from sparq_eval.results.frames import REPORT, load
from sparq_eval.statistics import MARGIN


def main() -> None:
    """Write the report, print its table and where it is. A user's mistake is one sentence and status 2."""
    options = parser().parse_args()
    out = options.out or options.results / REPORT
    chosen = {
        "models": options.model,
        "tasks": options.task,
        "methods": options.method,
        "transfers": options.transfers,
        "published": options.published,
    }
    try:
        if options.between:
            print(describe_pair(load(options.results), *options.between), end="")
            return
        if options.figure:
            draw_figures(options.figure, options.results, out, **chosen)
            return
        findings = write_report(options.results, out, margin=options.margin, **chosen)
    except UserError as error:
        fail(error, "sparq_eval.report")
    console = Console()
    if findings is not None:
        terminal_table(findings, console)
    console.print(f"tables, plots and index.html: {out}/", markup=False, highlight=False, soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparq_eval.report", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder with records of runs and benchmarks")
    parser.add_argument("--out", type=Path, help=f"folder to write to (RESULTS/{REPORT})")
    parser.add_argument(
        "--model",
        nargs="+",
        default=(),
        help="only these models (filters leave benchmarks alone, and analyses but for --figure)",
    )
    parser.add_argument("--task", nargs="+", default=(), help="only these tasks")
    parser.add_argument("--method", nargs="+", default=(), help="only these methods, and dense beside them")
    parser.add_argument(
        "--transfers",
        choices=("counted", "nominal"),
        default="counted",
        help="what plots show on x: as selected, or the paper's formula",
    )
    parser.add_argument(
        "--margin",
        type=above_zero,
        default=MARGIN,
        metavar="M",
        help="what a method may lose: points of scores in [0, 1], per cent of dense's value for others (%(default)g)",
    )
    parser.add_argument(
        "--between",
        nargs=2,
        metavar=("A", "B"),
        help="print what tells two settings apart; keys (results.csv has them) or how they begin",
    )
    parser.add_argument("--published", type=Path, help="folder with the paper's published numbers, drawn under ours")
    parser.add_argument("--figure", nargs="+", help="figures and tables of the paper alone: fig1 … table4, or all")
    return parser


def above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return number


if __name__ == "__main__":
    main()
