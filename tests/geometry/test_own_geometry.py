"""A geometry of one's own, a torus: with the few members that define it, it does all that the others do."""

import json
from pathlib import Path
from typing import final

import pytest
import torch
from strategies import assert_close, every_solver, matrix, temperatures, weights
from torch import Tensor

import metaot
from metaot import Dense, Problem, ot_value, solve
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import save
from metaot.geometry import Geometry
from metaot.models import PotentialMLP, single
from metaot.potentials import c_transform


@final
class Wrapped(metaot.Geometry):
    """Points of [0, 1)^d, whose opposite faces are one, and the squared distance."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[-2], self.y.shape[-2]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[:-2])

    @property
    def T(self) -> "Wrapped":
        return Wrapped(self.y, self.x)

    def cost_rows(self, rows: slice | Tensor) -> Tensor:
        gap = self.x[..., rows, None, :] - self.y[..., None, :, :]
        return (gap - gap.round()).square().sum(-1)

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x, "y": self.y}


def problem(*batch: int, own: bool = False, eps: float | Tensor = 0.05) -> Problem:
    """On one torus for all, or on one each."""
    torus = Wrapped(torch.rand(*batch if own else (), 12, 2), torch.rand(*batch if own else (), 9, 2))
    return Problem(weights(*batch, 12), weights(*batch, 9), torus, eps)


@pytest.mark.parametrize(("batch", "own"), [((), False), ((3,), False), ((2, 3), True)], ids=str)
@every_solver
def test_it_is_solved_as_its_matrix_is(batch, own, solver):
    mine = problem(*batch, own=own, eps=temperatures(batch, 0.2, 0.02))
    theirs = Problem(mine.a, mine.b, Dense(matrix(mine.geometry)), mine.eps)
    solution, other = (solve(p, solver=solver, tol=1e-9) for p in (mine, theirs))
    assert solution.converged.all()
    assert_close(solution.plan(), other.plan(), 1e-7)
    assert_close(solution.cost(), other.cost(), 1e-8)
    assert_close(solution.transport(mine.b[..., None]), other.transport(mine.b[..., None]), 1e-7)
    for bound in ("lower", "upper"):
        assert_close(getattr(solution.bounds(), bound), getattr(other.bounds(), bound), 1e-6)


def test_it_has_derivatives():
    cold = problem()
    x = cold.geometry.x.clone().requires_grad_()
    a = cold.a.clone().requires_grad_()
    made = Problem(a, cold.b, Wrapped(x, cold.geometry.y), 0.05)
    slopes = torch.autograd.grad(ot_value(made), (a, x))
    C = matrix(made.geometry)
    (in_a,) = torch.autograd.grad(ot_value(Problem(a, cold.b, Dense(C.detach()), 0.05)), a)
    (in_x,) = torch.autograd.grad(C, x, solve(cold, tol=1e-9).plan())
    assert_close(slopes[0], in_a, 1e-8)
    assert_close(slopes[1], in_x, 1e-7)
    f = torch.rand(12, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: c_transform(cold, f), f)


def test_it_is_saved_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    geometry = problem().geometry
    model = single(PotentialMLP.for_geometry(geometry, (0.01, 0.1), width=8, depth=1))
    predictor = AmortizedPotential(model.eval().requires_grad_(False), geometry, (0.01, 0.1))
    save(predictor, tmp_path)
    loaded = metaot.load(tmp_path)
    assert isinstance(loaded.geometry, Wrapped)
    case = Problem(weights(12), weights(9), geometry, 0.05)
    assert_close(loaded.predict(case).f, predictor.predict(case).f, 1e-6)
    assert json.loads((tmp_path / "model.json").read_text())["geometry"]["kind"] == "Wrapped"
    monkeypatch.delitem(Geometry.kinds, "Wrapped")
    with pytest.raises(
        ValueError, match=rf"a 'Wrapped', which no imported module defines: import {Wrapped.__module__}"
    ):
        metaot.load(tmp_path)


def test_a_name_is_taken_once():
    with pytest.raises(TypeError, match=r"metaot.geometry.grid has a geometry Grid already"):
        type("Grid", (Geometry,), {})
