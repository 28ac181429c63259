"""How many examples it takes, by the normal approximation from the clustered spread of the differences seen."""

import numpy as np
from scipy.stats import norm

POWER = 0.8


def examples_more(gap: np.ndarray, error: np.ndarray, samples: np.ndarray, tail: float = 0.025) -> np.ndarray:
    """[R]: examples more until `gap` is told from 0 in four of five repetitions, if gap and spread stay as they are.

    tail: of the interval that is to leave 0 out, at either end. nan where there is no gap or no
    spread, or no more are needed.
    """
    reach = norm.ppf(1 - tail) + norm.ppf(POWER)  # standard errors
    more = np.ceil(samples * ((reach * error / gap) ** 2 - 1))
    return np.where(np.isfinite(more) & (more > 0), more, np.nan)
