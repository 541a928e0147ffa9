"""How much the cost varies beyond a sum of functions of one atom each: what makes a transport problem one."""

import math

from metaot.single.plan import Array


def spread(C: Array, a: Array, b: Array) -> float:
    """Return about the largest singular value of the doubly centred cost between L2(b) and L2(a), from below.

    By one round of the power method, which sets out from the costs of the first source atom with mass.
    """
    one = -a
    one[(a > 0).argmax()] += 1
    t = centred(one @ C, b)
    s = centred(C @ (b * t), a)
    t = centred((a * s) @ C, b)
    size = math.sqrt(float(a @ (s * s)))
    return math.sqrt(float(b @ (t * t))) / size if size > 0 else 0.0


def centred(values: Array, weights: Array) -> Array:
    """Remove the mean."""
    return values - weights @ values
