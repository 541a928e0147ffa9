"""The dual objective for many problems with one small cost matrix on a CPU.

Problems are evaluated one after the other, so that each stays in the cache, in float32 and on the atoms with mass.
The gradient is computed with the value, so that autograd keeps nothing.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_LOWEST = -80.0
"""Exponents below it are zero in float32, and slow."""


def semidual_loss(
    f: Float[Tensor, "batch n"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    C: Float[Tensor, "n m"],
    eps: Float[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    r"""Return minus the dual value of f and the best g for it, in units of eps (equation 15 of arXiv 2206.05262).

    Differentiable in f, with the gradient $(P 1 - a)/\epsilon$. On the CPU, in float32.
    """
    return _SemiDual.apply(f, a, b, C, eps)  # type: ignore[no-any-return]


class _SemiDual(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917, the arguments of apply
        ctx: FunctionCtx, f: Tensor, a: Tensor, b: Tensor, C: Tensor, eps: Tensor
    ) -> Tensor:
        arrays = [value.detach().float().cpu().numpy() for value in (f, a, b, C)]
        potentials, sources, targets, costs = arrays
        values, gradients = np.empty(len(potentials), np.float32), np.zeros_like(potentials)
        for k, temperature in enumerate(eps.tolist()):
            rows = sources[k].nonzero()[0]
            weights = sources[k][rows]
            h = potentials[k][rows] + temperature * np.log(weights)
            values[k], source = _evaluated(h, targets[k], costs[rows], temperature)
            values[k] -= potentials[k][rows] @ weights / temperature
            gradients[k][rows] = (source - weights) / temperature
        ctx.save_for_backward(torch.from_numpy(gradients).to(f))
        return torch.from_numpy(values).to(f)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override], the decorator makes ctx positional
        ctx: FunctionCtx, v: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        (gradients,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return v[:, None] * gradients, None, None, None, None


def _evaluated(h: np.ndarray, b: np.ndarray, C: np.ndarray, eps: float) -> tuple[float, np.ndarray]:
    """Return minus <g, b>/eps for the best g, and the sums of the plan's rows."""
    z = h[:, None] - C
    top = z.max(0)
    z -= top
    z *= 1 / eps
    np.maximum(z, _LOWEST, out=z)
    np.exp(z, out=z)
    sums = z.sum(0)
    return float((top / eps + np.log(sums)) @ b), z @ (b / sums)
