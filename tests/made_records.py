"""Records of made-up answers, for tests of what a report makes of them."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparq_eval.results import Identity, Row, Store

OUTPUTS = (
    "",
    "NA",
    "null",
    "1851",
    "007",
    "=1+1",
    "+x",
    "-",
    "@a",
    'a "b", c',
    "a\nb",
    "a\r\nb\r",
    "\r",
    " pad\t",
    "é模\u2028",
)
HEADS = 90  # layers times key/value heads


def moved(method: str, settings: dict[str, Any], S: float, D: int = 64) -> float:
    k, r = settings.get("k", 0), settings.get("r", 0)
    formulas = {"dense": 2 * S * D, "sparq": S * r + 2 * k * D + 3 * D, "h2o": 2 * k * D + 2 * S}
    return HEADS * formulas.get(method, 2 * k * D)


SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dense", {}),
    *(("sparq", {"r": r, "k": k, "local": k // 4, "reallocate": False}) for k in (64, 128) for r in (8, 16, 32)),
    *(("h2o", {"k": k, "local": k // 4}) for k in (64, 256)),
    ("lm_infinite", {"k": 128, "sink": 16}),
)
SCORES = {"dense": 0.6, "sparq": 0.5, "h2o": 0.35, "lm_infinite": 0.1}


def measure(
    root: Path, model: str, task: str, method: str, settings: dict[str, Any], n: int = 20, **changes: Any
) -> Path:
    """Record made-up answers. changes: fields of the identity or of every row, metric, higher_is_better."""
    upward = changes.pop("higher_is_better", True)
    metric = changes.pop("metric", "prefix_match")
    score = changes.pop("score", SCORES.get(method, 0.3))
    identity = Identity({"name": model}, task, {"set": task}, method, settings, {"dtype": "float32"}, {"torch": "2"})
    of_identity = {name: changes.pop(name) for name in list(changes) if hasattr(identity, name)}
    chance = random.Random(f"{task} {method} {settings}")
    rows = []
    for index in range(n):
        S = 1000 + index
        traffic = moved(method, settings, S), moved("dense", {}, S)
        point = score + chance.uniform(-0.05, 0.05)
        output = OUTPUTS[index % len(OUTPUTS)]
        active = 0.0 if method == "dense" else 4.0
        plain = Row(
            index, f"0{index}", S, 5, output, point, *traffic, *traffic, 4, 12, active, int(active), False, True, 0.5
        )
        rows.append(replace(plain, **changes))
    entry = Store(root).open(replace(identity, **of_identity), metric=metric, higher_is_better=upward)
    entry.append(rows, {"started": "now"})
    return entry.path


def measure_all(root: Path) -> Path:
    """All of SETTINGS on two tasks."""
    for task in ("squad", "repetition"):
        for method, settings in SETTINGS:
            measure(root, "org/m_1", task, method, settings)
    return root
