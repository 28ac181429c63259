"""One style for all figures: names, colours that the colour-blind tell apart, sizes for a paper's column."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

METHODS = {"dense": "dense", "sparq": "SparQ", "h2o": "H2O", "lm_infinite": "LM-Infinite", "flexgen": "FlexGen top-k"}
METRICS = {
    "prefix_match": "accuracy",
    "rougeL": "ROUGE-L",
    "match_length": "match length (characters)",
    "needle_match": "needles found",
    "bits_per_character": "bits per character",
}
# Okabe and Ito's colours, without the yellow that paper swallows
COLOURS = {"sparq": "#0072B2", "h2o": "#E69F00", "lm_infinite": "#009E73", "flexgen": "#CC79A7"}
SPARE_COLOURS = ("#D55E00", "#56B4E9", "#7F5539", "#6C757D")
MARKERS = {"sparq": "o", "h2o": "s", "lm_infinite": "^", "flexgen": "D"}
SPARE_MARKERS = ("P", "X", "p", "h")
DENSE = "#333333"
DASHES = (0, (4, 2))
# of published lines, which lie under ours
PALE = 0.45
PUBLISHED: dict[str, Any] = {"linestyle": (0, (3, 1.2)), "linewidth": 0.9}

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.8,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "sparq_eval",  # the same records give the same file
    "savefig.dpi": 220,
}


@dataclass(frozen=True)
class Look:
    colour: tuple[float, float, float]
    marker: str


def label_of(method: str) -> str:
    """For people; of a form of a method (`statistics.lines`) with what follows its name."""
    name, space, rest = method.partition(" ")
    return f"{METHODS[name]}{space}{rest}" if name in METHODS else method


def looks(lines: Sequence[tuple[str, str, float]]) -> dict[str, Look]:
    """How to draw each label of (method, label, rank): a method's colour, paler from its highest rank to its lowest."""
    unknown = sorted({method for method, _, _ in lines} - COLOURS.keys())
    result = {}
    for method, label, _ in lines:
        place = unknown.index(method) if method in unknown else 0
        colour = COLOURS.get(method, SPARE_COLOURS[place % len(SPARE_COLOURS)])
        # as many looks as there are pairs of a colour and a marker
        turn = place + place // len(SPARE_COLOURS)
        marker = MARKERS.get(method, SPARE_MARKERS[turn % len(SPARE_MARKERS)])
        own = sorted(
            {(rank, other) for of, other, rank in lines if of == method and other != label_of(of)}, reverse=True
        )
        shades = [other for _, other in own]
        # what needs no note beside the method's name is the method itself
        steps = shades.index(label) / max(len(own) - 1, 1) if label in shades else 0
        result[label] = Look(paler(colour, 0.6 * steps), marker)
    return result


def paler(colour: str | tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """`colour` with a share of white."""
    red, green, blue = (part + (1 - part) * share for part in to_rgb(colour))
    return red, green, blue


def drawable(text: str, longest: int = 60) -> str:
    """One line that the figures' font can draw: other characters are boxes, a long middle is left out."""
    known = glyphs()
    text = "".join(character if ord(character) in known else "\N{WHITE SQUARE}" for character in " ".join(text.split()))
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


@cache
def glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
