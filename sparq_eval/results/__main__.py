"""`python -m sparq_eval.results verify|diff|merge|gc|export|import`: looking after folders of results."""

import argparse
import sys
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.progress import fail, say
from sparq_eval.results import compare, exchange, tidy
from sparq_eval.results.formulas import guarded
from sparq_eval.results.frames import load
from sparq_eval.results.merge import merge
from sparq_eval.results.verify import set_aside, verify


def main() -> None:
    """A user's mistake is one sentence and status 2; status 1: verify found something."""
    options = parser().parse_args()
    try:
        sys.exit(options.run(options))
    except UserError as error:
        fail(error, "sparq_eval.results")
    except BrokenPipeError:
        sys.exit(141)  # whoever read the output has seen enough
    except OSError as error:
        say(f"sparq_eval.results: {error.filename}: {error.strerror}")
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparq_eval.results", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: object, help_: str, *folders: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_, description=help_)
        for folder in folders:
            made.add_argument(folder.lower(), type=Path, metavar=folder)
        made.set_defaults(run=run)
        return made

    checks = command("verify", run_verify, "name what is torn, cut short, changed or foreign", "DIR")
    checks.add_argument(
        "--set-aside", action="store_true", help="move it to DIR/.aside; what is missing is measured again"
    )
    command("diff", run_diff, "what differs between two folders, setting by setting", "A", "B")
    command("merge", run_merge, "add to A what only B has", "A", "B")
    tidies = command("gc", run_gc, "show what is no result: halves of writes, what was set aside", "DIR")
    tidies.add_argument("--failed", action="store_true", help="also records of settings that failed before any row")
    tidies.add_argument("--yes", action="store_true", help="remove it")
    exports = command("export", run_export, "write DIR as Parquet or as lm-eval's results JSON", "DIR", "OUT")
    exports.add_argument("--to", choices=("parquet", "lm-eval"), required=True)
    imports = command(
        "import", run_import, "print a results file of lm-eval's, or an export to Parquet, as CSV", "PATH"
    )
    imports.add_argument("--from", dest="kind", choices=("parquet", "lm-eval"), required=True)
    return parser


def run_verify(options: argparse.Namespace) -> int:
    found = verify(options.dir)
    for finding in found:
        print(finding)
        if options.set_aside and (place := set_aside(options.dir, finding)):
            print(f"  set aside: {place}")
    print(f"{len(found)} findings" if found else "all is as it was written")
    return 1 if found else 0


def run_diff(options: argparse.Namespace) -> int:
    table = compare.diff(options.a, options.b)
    print(table.to_string(index=False))
    return 0


def run_merge(options: argparse.Namespace) -> int:
    merged = merge(options.a, options.b)
    kept = f"; {merged.different} rows are there with another content and were kept as they are"
    others = f", {merged.notes} notes on settings and {merged.files} records of benchmarks and analyses"
    print(f"{merged.rows} rows{others} added to {options.a}{kept if merged.different else ''}")
    return 0


def run_gc(options: argparse.Namespace) -> int:
    found, removed = tidy.rubbish(options.dir, options.failed), 0
    for path, why in found:
        print(f"{path}: {why}")
        if options.yes and tidy.remove(path, options.failed):
            removed += 1
        elif options.yes:
            print("  kept: it is being written")
    print(f"{removed} removed" if options.yes else f"{len(found)} to remove{': --yes removes them' if found else ''}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    frames = load(options.dir)
    if options.to == "parquet":
        exchange.to_parquet(frames, options.out)
        print(f"{options.out}/records.parquet, samples.parquet")
    else:
        print(f"{len(exchange.to_lm_eval(frames, options.out))} files in {options.out}/")
    return 0


def run_import(options: argparse.Namespace) -> int:
    lm_eval = options.kind == "lm-eval"
    table = exchange.from_lm_eval(options.path) if lm_eval else exchange.from_parquet(options.path).records
    print(guarded(table).to_csv(index=False), end="")
    return 0


if __name__ == "__main__":
    main()
