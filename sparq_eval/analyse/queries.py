"""How heavy the tails of query components are: moments of each head, and densities of standardised components."""

from typing import Any

import numpy as np
from scipy.stats import kurtosis, skew

BINS = np.linspace(-10, 10, 81)


def moments(q: np.ndarray) -> dict[str, np.ndarray]:
    """Of queries (examples, layers, heads, D) over examples and components: (layers, heads). Kurtosis is Fisher's, 0 of
    a normal distribution.
    """
    flat = q.astype(np.float64).transpose(1, 2, 0, 3).reshape(*q.shape[1:3], -1)
    return {
        "mean": flat.mean(axis=-1),
        "deviation": flat.std(axis=-1),
        "skewness": skew(flat, axis=-1),
        "kurtosis": kurtosis(flat, axis=-1),
    }


def densities(q: np.ndarray, layer: int) -> dict[str, Any]:
    """Histograms of components in units of their head's deviation from its mean: of each head of a layer, and of all
    heads together. What lies beyond the bins is counted in the outermost ones.
    """
    flat = q.astype(np.float64).transpose(1, 2, 0, 3).reshape(*q.shape[1:3], -1)
    deviation = flat.std(axis=-1, keepdims=True)
    z = (flat - flat.mean(axis=-1, keepdims=True)) / np.where(deviation == 0, 1, deviation)
    z = z.clip(BINS[0], BINS[-1])
    return {
        "edges": BINS,
        "layer": layer,
        "of_layer": np.stack([density(head) for head in z[layer]]),
        "all": density(z),
    }


def density(z: np.ndarray) -> np.ndarray:
    return np.histogram(z, bins=BINS, density=True)[0]
