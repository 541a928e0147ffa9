"""The fifteen potentials of the benchmark of JKOnet* (Terpin et al., NeurIPS 2024), on points k d."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the first half of the coordinates, and that of the second."""
    half = x.shape[-1] // 2
    return x[..., :half].mean(-1), x[..., half:].mean(-1)


def styblinski_tang(x: Tensor) -> Tensor:
    return 0.5 * (x**4 - 16 * x**2 + 5 * x).sum(-1)


def holder_table(x: Tensor) -> Tensor:
    u, v = _halves(x)
    return 10 * (u.sin() * v.cos() * (1 - x.norm(dim=-1) / math.pi).abs().exp()).abs()


def zigzag_ridge(x: Tensor) -> Tensor:
    u, v = x[..., :-1], x[..., 1:]
    return ((u - v) ** 2 + u.cos() * (u + v) + u**2 * v).sum(-1)


def oakley_ohagan(x: Tensor) -> Tensor:
    return 5 * (x.sin() + x.cos() + x**2 + x).sum(-1)


def watershed(x: Tensor) -> Tensor:
    u, v = x[..., :-1], x[..., 1:]
    return (u + u**2 * (v + 4)).sum(-1) / 10


def ishigami(x: Tensor) -> Tensor:
    u, v = _halves(x)
    return u.sin() + 7 * v.sin() ** 2 + 0.1 * ((u + v) / 2) ** 4 * u.sin()


def friedman(x: Tensor) -> Tensor:
    u, v = _halves(2 * (x - 7))
    v = v / 2
    waves = 10 * (math.pi * u * v).sin() + 20 * (u * v.sin() - 0.5) ** 2
    return (waves + 10 * (u * v.cos() - 1) ** 2 + 0.1 * v * u.sin()) / 100


def sphere(x: Tensor) -> Tensor:
    return -10 * (x**2).sum(-1)


def bohachevsky(x: Tensor) -> Tensor:
    u, v = _halves(x)
    return 10 * (u**2 + 2 * v**2 - 0.3 * (3 * math.pi * u).cos() - 0.4 * (4 * math.pi * v).cos())


def flowers(x: Tensor) -> Tensor:
    return (x + 2 * (x.abs() ** 1.2).sin()).sum(-1)


def wavy_plateau(x: Tensor) -> Tensor:
    return ((math.pi * x).cos() + 0.5 * x**4 - 3 * x**2 + 1).sum(-1)


def double_exponential(x: Tensor) -> Tensor:
    return 200 * sum((-((x - centre) ** 2).sum(-1) / 20).exp() for centre in (3, -3))


def relu(x: Tensor) -> Tensor:
    return -50 * x.clamp(min=0).sum(-1)


def rotational(x: Tensor) -> Tensor:
    u, v = _halves(x)
    return -500 * (torch.atan2(v + 5, u + 5) + math.pi).clamp(min=0)


def flat(x: Tensor) -> Tensor:
    return 0 * x.sum(-1)


POTENTIALS: dict[str, Callable[[Tensor], Tensor]] = {
    each.__name__: each
    for each in (
        styblinski_tang, holder_table, zigzag_ridge, oakley_ohagan, watershed, ishigami, friedman, sphere,
        bohachevsky, flowers, wavy_plateau, double_exponential, relu, rotational, flat,
    )
}  # fmt: skip


def gradient(potential: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of a potential at points."""
    at = x.detach().requires_grad_()
    return torch.autograd.grad(potential(at).sum(), at)[0]
