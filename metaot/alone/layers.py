"""Layers of networks in numpy."""

from dataclasses import dataclass
from typing import final

import numpy as np

Array = np.ndarray

_A = np.array([[12.477027], [-9.8450217], [-39.585156]], dtype=np.float32)
_B = np.array([[76.205937], [940.40453], [270.10662]], dtype=np.float32)
_C = np.float32(-3.6112315e-9)


def gelu(x: Array) -> Array:
    r"""Return x Phi(x) of a vector, with the normal distribution function.

    log(Phi(x) / Phi(-x)) is x p(x^2), and p, fitted to that for |x| < 5.6, a product of three positive quadratics:
    right to 7e-8 and to rounding, with half of the calls of 7.1.26 in Abramowitz and Stegun, which is no better.
    """
    factors = x * x + _A
    factors *= factors
    factors += _B
    y = _C * x
    for factor in factors:
        y *= factor
    np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


@final
@dataclass(frozen=True)
class LinearAlone:
    """W x + b, for rows x."""

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        y = x @ self.weight.T
        y += self.bias
        return y


def normal(x: Array) -> Array:
    """Return rows with mean zero and variance one."""
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5)
    return x
