"""Initial weights, drawn on the host: compiling a program per shape took a minute on CPU."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Initializer: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Orthonormal rows or columns of the matrix (all other axes, last axis) (Saxe et al. 2014)."""
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # uniform over the orthogonal matrices
    return (q if rows >= columns else q.T).reshape(shape).astype(np.float32)


def normal(std: float) -> Initializer:
    return lambda rng, shape: rng.normal(0.0, std, shape).astype(np.float32)


def he(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 2 / fan in) (He et al. 2015)."""
    return normal((2 / np.prod(shape[:-1])) ** 0.5)(rng, shape)


def uniform(bound: float) -> Initializer:
    """U(-bound, bound)."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape).astype(np.float32)


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    del rng
    return np.zeros(shape, np.float32)
