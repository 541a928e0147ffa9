"""The dual objective on grids by compiled code: a value and its gradient for the price of a Sinkhorn step."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from metaot import single
from metaot.potentials import DualPotentials, source_marginal
from metaot.problem import Problem
from metaot.single import Kernels


def dual_loss_on_grid(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"] | None:
    r"""Return minus the dual value of f and the best g for it, differentiable in f with the gradient P 1 - a.

    None where there is no compiled code for it: off grids, on a GPU, and where derivatives in a are asked for.
    """
    weights = problem.a, problem.b
    if not f.is_cpu or any(not w.is_cpu or w.requires_grad for w in weights):
        return None
    kernels = problem.geometry.axis_kernels(problem.flat().eps, single.LARGEST)
    return None if kernels is None or not single.COMPILED else _OnGrid.apply(f, problem, kernels)


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, f: Tensor, problem: Problem, kernels: Kernels) -> Tensor:
        value, missing = _value_and_missing(problem.flat(), f.reshape(-1, f.shape[-1]), kernels)
        ctx.save_for_backward(missing.reshape(f.shape).to(f))
        return -value.reshape(f.shape[:-1]).to(problem.a)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override], the decorator makes ctx positional
        ctx: FunctionCtx, v: Tensor
    ) -> tuple[Tensor, None, None]:
        (missing,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return -v[..., None] * missing, None, None


def _value_and_missing(
    problem: Problem, f: Float[Tensor, "batch n"], kernels: Kernels
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch n"]]:
    """Return the dual value of f and a - P 1, float64; where numbers leave floating point, by the geometry."""
    a, b, f = problem.a.double(), problem.b.double(), f.double()
    eps = torch.as_tensor(problem.eps, dtype=torch.float64).reshape(-1, 1)
    arrays = (values.numpy() for values in (a, b, f / eps))
    found = single.dual_value_on_grid_each(kernels, *arrays, threads=torch.get_num_threads())
    value, missing = torch.from_numpy(found.value) * eps[:, 0], torch.from_numpy(found.missing)
    if len(found.lost):
        lost = torch.from_numpy(found.lost)
        part = problem[lost].to(a)
        potentials = DualPotentials.from_f(part, f[lost])
        value[lost] = (potentials.f * part.a).sum(-1) + (potentials.g * part.b).sum(-1)
        missing[lost] = part.a - source_marginal(part, potentials)
    return value, missing
