"""Progress with time left, on standard error: a live bar in a terminal, a line now and then in a pipe."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparq_eval.errors import UserError

Advance = Callable[[float], None]


def say(message: str) -> None:
    """One line to the user, on standard error, so that standard output stays for results."""
    print(message, file=sys.stderr, flush=True)


def fail(error: UserError, program: str = "sparq_eval") -> NoReturn:
    """End the program: a user's mistake is one sentence and status 2."""
    say(f"{program}: {error}")
    sys.exit(2)


def unread() -> NoReturn:
    """End the program quietly where who read its output has seen enough, with the status of SIGPIPE."""
    # at the end Python flushes what is left once more
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def progress(what: str, total: float, unit: str = "", every: float = 15.0) -> Iterator[Advance]:
    """Show how far `what` is and how long it will take; the block calls the yielded function with each advance."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        times = TimeElapsedColumn(), TimeRemainingColumn()
        # what is printed meanwhile goes above the bar, unless it goes to a file
        with Progress(*columns, *times, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
            task = bar.add_task(what, total=total)
            yield lambda by: bar.advance(task, by)
        return
    start = last = time.monotonic()
    done = 0.0

    def advance(by: float) -> None:
        nonlocal done, last
        done += by
        now = time.monotonic()
        if now - last >= every and done < total:
            last = now
            left = (now - start) * (total - done) / max(done, 1e-9)
            say(f"{what}: {done:,.0f} of {total:,.0f} {unit} in {clock(now - start)}, {clock(left)} left")

    yield advance
    say(f"{what}: {done:,.0f} {unit} in {clock(time.monotonic() - start)}")
