"""What a setting moves by its formula, over all layers, counted as the published code does or as the paper's text.

code: S is the prompt's length without special and generated tokens; SparQ writes a key twice (5 D), H2O moves one more.
paper: Appendix G's formulas; S is what is cached at a decode step, special and generated tokens included, on average.
"""

from collections import Counter
from collections.abc import Sequence

from sparq_eval.methods import Method, Shape
from sparq_eval.request import Request

ACCOUNTING = ("code", "paper")


def cached(request: Request, steps: float, accounting: str) -> float:
    """S of the formulas for an answer that took so many decode steps."""
    if accounting == "code":
        return request.prompt_tokens
    return len(request.prompt) + max(0.0, steps - 1) / 2


def nominal(method: Method, S: float, shape: Shape, windows: Sequence[int | None], accounting: str = "code") -> float:
    """Elements moved per generated token over all layers and heads; a layer with a window caches no more than that."""
    formula = method.transfers if accounting == "code" else method.transfers_as_printed
    layers = Counter(windows).items()
    return shape.heads * sum(count * formula(min(S, window or S), shape) for window, count in layers)
