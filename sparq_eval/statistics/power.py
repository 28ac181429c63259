"""How many examples it takes, by the normal approximation from the clustered spread of the differences seen."""

import numpy as np
from scipy.stats import norm

REACH = norm.ppf(0.975) + norm.ppf(0.8)  # standard errors that 80 % power at 95 % needs


def examples_more(gap: np.ndarray, error: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """[R]: examples more until `gap` is told from 0 in four of five repetitions, if gap and spread stay as they are.

    nan where there is no gap or no spread, or no more are needed.
    """
    more = np.ceil(samples * ((REACH * error / gap) ** 2 - 1))
    return np.where(np.isfinite(more) & (more > 0), more, np.nan)
