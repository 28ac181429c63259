"""The texts of prompts, kept once beside the records that were asked them, each under its digest.

They lie in `<results>/<model>/<task>/prompts.jsonl`; rows name theirs. Records without them are whole all the same.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results import store
from sparq_eval.results.record import checked, intact

PROMPTS = "prompts.jsonl"
NAMED = re.compile(rb'^{"prompt": "([0-9a-f]{16})"', re.MULTILINE)


def digest(text: str) -> str:
    """What a prompt goes by: 16 hex digits of the sha256 of its text; "" for no text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] if text else ""


def keep_prompts(folder: Path, texts: Iterable[str]) -> None:
    """Add to the prompts in `folder` those that are not there yet. UserError if they could not be written."""
    wanted = {digest(text): text for text in texts if text}
    path = folder / PROMPTS
    if wanted.keys() <= named(path):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            # a line that was cut short is written again with the rows that it was written for
            file.truncate(content.rfind(b"\n") + 1)
            there = names_in(content)
            file.write(b"".join(line_of(name, text) for name, text in wanted.items() if name not in there))
            store.keep(file)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); what is there is kept") from error


def load_prompts(root: Path) -> dict[str, str]:
    """The texts of the prompts that were kept below `root`, by digest; lines that are none are named and left out."""
    found: dict[str, str] = {}
    for path in paths(Path(root)):
        texts, bad = read(path)
        found |= texts
        if bad:
            say(f"warning: {path}: lines {', '.join(map(str, bad))} are not prompts as they were written; left out")
    return found


def read(path: Path) -> tuple[dict[str, str], list[int]]:
    """Texts by digest, and the numbers of the lines that are no prompts as they were written."""
    texts, bad = dict[str, str](), list[int]()
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            values = json.loads(line)
            name, text = values["prompt"], values["text"]
            if not (intact(line) and digest(text) == name):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            bad.append(number)
        else:
            texts[name] = text
    return texts, bad


def drop_lines(path: Path, aside: Path) -> None:
    """Move the lines that are no prompts as they were written to `aside`."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        bad = set(read(path)[1])
        file.seek(0)
        lines = list(enumerate(file.read().split(b"\n"), start=1))
        with aside.open("ab") as other:
            other.write(b"".join(line + b"\n" for number, line in lines if number in bad))
            store.keep(other)
        file.truncate(0)
        file.write(b"".join(line + b"\n" for number, line in lines if line and number not in bad))
        store.keep(file)


def paths(root: Path) -> Iterator[Path]:
    for parent, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if PROMPTS in names:
            yield Path(parent) / PROMPTS


def line_of(name: str, text: str) -> bytes:
    return checked(json.dumps({"prompt": name, "text": text}).encode()) + b"\n"


def named(path: Path) -> set[str]:
    try:
        return names_in(path.read_bytes())
    except FileNotFoundError:
        return set()


def names_in(content: bytes) -> set[str]:
    return {name.decode() for name in NAMED.findall(content[: content.rfind(b"\n") + 1])}
