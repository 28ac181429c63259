"""What records say beyond chance: each setting beside dense on the same examples, and how far a method compresses."""

from sparq_eval.statistics.compare import COMPARISONS, between, compare
from sparq_eval.statistics.headline import HEADLINE, MARGIN, headline

__all__ = ["COMPARISONS", "HEADLINE", "MARGIN", "between", "compare", "headline"]
