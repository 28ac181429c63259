"""The file itself: a template, its style and scripts, and blocks of packed data that only the scripts can read."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from sparq_eval.report.page.pack import pack, pack_text

SCRIPTS = ("unpack.js", "rows.js", "settings.js", "charts.js", "curves.js", "needles.js", "differ.js", "explorer.js")
LAST = "page.js"


def document(first: object, others: Mapping[str, object]) -> str:
    """first: what is shown at once, the block `overview`; others: blocks by their id, unpacked when they are asked for.

    Plotly's JavaScript is one of them, so that tables do not wait for it. Nothing but these very scripts can run, and
    nothing can be fetched: the policy names their hashes.
    """
    scripts = [asset(name) for name in (*SCRIPTS, LAST)]
    later = [block("plotly", packed_plotly()), *(block(name, pack(content)) for name, content in others.items())]
    parts = {
        "POLICY": policy([*scripts, plotly_source()]),
        "STYLE": asset("page.css"),
        "FIRST": block("overview", pack(first)),
        "SCRIPTS": "\n".join(f"<script>{script}</script>" for script in scripts),
        "LATER": "\n".join(later),
    }
    page = asset("page.html")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    return page


def policy(scripts: list[str]) -> str:
    """Styles may be inline: Plotly sets its own, and they can neither run nor fetch anything."""
    allowed = " ".join(f"'sha256-{digest(script)}'" for script in scripts)
    rules = {
        "default-src": "'none'",
        "script-src": allowed,
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


def digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def block(name: str, packed: str) -> str:
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def asset(name: str) -> str:
    return files("sparq_eval.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def plotly_source() -> str:
    """Plotly's JavaScript, all of it: the package ships no smaller bundle."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


@cache
def packed_plotly() -> str:
    return pack_text(plotly_source())
