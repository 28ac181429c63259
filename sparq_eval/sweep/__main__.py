"""`python -m sparq_eval.sweep plan|status|resume`: what a sweep will cost, where it stands, what is left of it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.overrides import check_overrides
from sparq_eval.progress import fail, unread

RECORDS_ONLY = "--records-only"


def main() -> None:
    """A user's mistake is one sentence and status 2; status 1: something failed or is missing."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = read_options(sys.argv[1:])
    try:
        status = options.run(options)
        sys.stdout.flush()
        sys.exit(status)
    except UserError as error:
        fail(error, "sparq_eval.sweep")
    except BrokenPipeError:
        unread()
    except KeyboardInterrupt:
        sys.exit(130)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and what it is given. A plan's words are a command line of their own, whose flags are Hydra's."""
    if arguments[:1] != ["plan"] or {"-h", "--help"} & {*arguments}:
        return parser().parse_args(arguments)
    options = parser().parse_args(["plan", *[RECORDS_ONLY] * (RECORDS_ONLY in arguments)])
    options.words = [word for word in arguments[1:] if word != RECORDS_ONLY]
    return options


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparq_eval.sweep", description=__doc__)
    commands = parser.add_subparsers(required=True)
    plan = commands.add_parser(
        "plan", help="cells, prefills, decode steps, memory and hours, before anything is sent off"
    )
    plan.add_argument("words", nargs="*", help="all that python -m sparq_eval -m takes, flags too")
    plan.add_argument(RECORDS_ONLY, action="store_true", help="take times from earlier records, load no model")
    plan.set_defaults(run=run_plan)
    status = commands.add_parser("status", help="where each cell stands; a live view in a terminal")
    status.add_argument("dir", type=Path, metavar="DIR", help="the sweep's folder")
    status.set_defaults(run=run_status)
    resume = commands.add_parser("resume", help="send off what is missing, and nothing that is done or live")
    resume.add_argument("dir", type=Path, metavar="DIR", help="the sweep's folder")
    resume.add_argument("words", nargs="*", help="hydra/launcher=… and its settings, if not those of the sweep")
    resume.add_argument("--new-code", action="store_true", help="measure what is missing with code that has changed")
    resume.set_defaults(run=run_resume)
    return parser


# torch takes seconds to import: each command imports what it needs
def run_plan(options: argparse.Namespace) -> int:
    check_overrides(options.words)
    from sparq_eval.sweep.estimate import estimate

    estimate(options.words, calibrate=not options.records_only)
    return 0


def run_status(options: argparse.Namespace) -> int:
    from sparq_eval.sweep.manifest import read
    from sparq_eval.sweep.show import show
    from sparq_eval.sweep.status import DONE, look

    manifest = read(options.dir)
    show(lambda: look(manifest))
    standings = look(manifest)
    return 0 if all(each.live or each.state == DONE for each in standings) else 1


def run_resume(options: argparse.Namespace) -> int:
    check_overrides(options.words)
    from sparq_eval.sweep.manifest import read
    from sparq_eval.sweep.submit import resume

    if other := [word for word in options.words if not word.startswith(("hydra/", "hydra.", "+hydra.", "++hydra."))]:
        raise UserError(
            f"{other[0]}: a sweep measures what it was submitted for; only hydra/launcher and hydra.… change"
        )
    return resume(read(options.dir), options.words, options.new_code)


if __name__ == "__main__":
    main()
