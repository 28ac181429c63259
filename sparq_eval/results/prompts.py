"""Prompts and what was expected for an answer, kept once beside the records that were asked them.

They lie in `<results>/<model>/<task>/prompts.jsonl`, each under its digest; rows name theirs. Records without them are
whole all the same.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results import disk
from sparq_eval.results.record import checked, intact

PROMPTS = "prompts.jsonl"
NAMED = re.compile(rb'^{"prompt": "([0-9a-f]{16})"', re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    """references: the answers that its task knows, any of them is right; of older prompts they are not known."""

    text: str
    references: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it goes by: 16 hex digits of a sha256 of all it holds; "" for no text."""
        if not self.text:
            return ""
        whole = json.dumps([self.text, *self.references]) if self.references else self.text
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def line(self) -> bytes:
        values = {"prompt": self.name, "text": self.text}
        references = {"references": list(self.references)} if self.references else {}
        return checked(json.dumps(values | references).encode()) + b"\n"

    @staticmethod
    def read(line: bytes) -> "Prompt":
        """ValueError if a line is none as it was written."""
        values = json.loads(line)
        if not (isinstance(values, dict) and intact(line, values)):
            raise ValueError
        text, references = values.get("text"), values.get("references", [])
        if not (
            isinstance(text, str) and isinstance(references, list) and all(isinstance(one, str) for one in references)
        ):
            raise ValueError
        prompt = Prompt(text, tuple(references))
        if not text or prompt.name != values.get("prompt"):
            raise ValueError
        return prompt


def keep_prompts(folder: Path, prompts: Iterable[Prompt]) -> None:
    """Add to the prompts in `folder` those that are not there yet. UserError if they could not be written."""
    wanted = {prompt.name: prompt for prompt in prompts if prompt.text}
    path = folder / PROMPTS
    if wanted.keys() <= named(path):
        return
    try:
        with disk.writing(path) as file:
            file.seek(0)
            content = file.read()
            # a line that was cut short is written again with the rows that it was written for
            file.truncate(content.rfind(b"\n") + 1)
            there = names_in(content)
            file.write(b"".join(prompt.line for name, prompt in wanted.items() if name not in there))
            disk.keep(file)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); what is there is kept") from error


def load_prompts(root: Path) -> dict[str, Prompt]:
    """The prompts that were kept below `root`, by name; lines that are none are told of and left out."""
    found: dict[str, Prompt] = {}
    for path in paths(Path(root)):
        prompts, bad = read(path)
        found |= prompts
        if bad:
            say(f"warning: {path}: lines {', '.join(map(str, bad))} are not prompts as they were written; left out")
    return found


def read(path: Path) -> tuple[dict[str, Prompt], list[int]]:
    """Prompts by name, and the numbers of the lines that are none as they were written."""
    with disk.reading(path) as file:
        return parse(file.read() if file else b"")


def parse(content: bytes) -> tuple[dict[str, Prompt], list[int]]:
    found, bad = dict[str, Prompt](), list[int]()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line:
            continue
        try:
            prompt = Prompt.read(line)
        except (ValueError, RecursionError):
            bad.append(number)
        else:
            found[prompt.name] = prompt
    return found, bad


def drop_lines(path: Path, aside: Path) -> None:
    """Move the lines that are no prompts as they were written to `aside`."""
    with disk.writing(path) as file:
        file.seek(0)
        content = file.read()
        bad = set(parse(content)[1])
        lines = list(enumerate(content.split(b"\n"), start=1))
        # aside first: a crash between the two leaves a line in both files, and none in neither
        disk.add_lines(aside, [line for number, line in lines if number in bad])
        disk.replace(path, b"".join(line + b"\n" for number, line in lines if line and number not in bad))


def paths(root: Path) -> Iterator[Path]:
    for parent, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if PROMPTS in names:
            yield Path(parent) / PROMPTS


def named(path: Path) -> set[str]:
    try:
        return names_in(path.read_bytes())
    except FileNotFoundError:
        return set()


def names_in(content: bytes) -> set[str]:
    return {name.decode() for name in NAMED.findall(content[: content.rfind(b"\n") + 1])}
