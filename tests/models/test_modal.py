"""A network between the slow modes of Sinkhorn: what the modes are, and what refinement steps do with them."""

import pytest
import torch
from strategies import assert_close
from strategies import weights as random_weights

from metaot.amortize import AmortizedPotential
from metaot.geometry import Dense, Geometry, Points
from metaot.models import ModalPotential, single
from metaot.models.modal import slow_modes
from metaot.potentials import DualPotentials, c_transform, marginal_error, sinkhorn_step
from metaot.problem import Problem

EPS = 0.05
SPACES = {
    "points": Points(torch.rand(20, 2).double(), torch.rand(30, 2).double(), "euclidean"),
    "more sources": Points(torch.rand(40, 3).double(), torch.rand(15, 3).double()),
    "matrix": Dense(torch.rand(20, 25).double()),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def near_the_mean(space: Geometry, size: float = 0.1, batch: int = 4) -> Problem:
    """Return problems whose weights differ a little from even ones."""
    a, b = (1 + size * torch.randn(batch, n).clamp(-3, 3) for n in space.shape)
    return Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), space, EPS)


def predictor(space: Geometry, **settings: int) -> AmortizedPotential:
    """Return a model that is not trained."""
    model = single(ModalPotential.for_geometry(space, (EPS, EPS), width=16, hidden=8, correction=8, **settings))
    sample = near_the_mean(space, batch=50)
    model.standardise(sample.a.float(), sample.b.float())
    return AmortizedPotential(model.eval().requires_grad_(False), space, (EPS, EPS))


@every_space
def test_a_sinkhorn_step_shrinks_each_mode_by_the_square_of_its_correlation(space):
    n, m = space.shape
    a, b = torch.full((n,), 1 / n), torch.full((m,), 1 / m)
    modes = slow_modes(space, a, b, EPS, 6)
    problem = Problem(a.expand(6, -1), b.expand(6, -1), space, EPS)
    assert_close(modes.source.mT @ modes.source / n, torch.eye(6), 1e-8)
    small = 1e-5 * modes.source.mT
    before, after = sinkhorn_step(problem, modes.f + 0 * small)[0], sinkhorn_step(problem, modes.f + small)[0]
    off = after - before
    off = off - off.mean(-1, keepdim=True)
    assert_close(off, modes.correlation.square()[:, None] * small, 1e-7)
    assert (modes.correlation.diff() <= 0).all()


@every_space
def test_an_untrained_refinement_step_is_newton_s_near_the_mean(space):
    problem = near_the_mean(space, 0.02)
    model = predictor(space, passes=1)
    first, last = model.stages(problem)
    by_sinkhorn = c_transform(problem.T, c_transform(problem, first))
    plain, learnt = (marginal_error(problem, DualPotentials.from_f(problem, f)) for f in (by_sinkhorn, last))
    assert (learnt < 0.3 * plain).all()


def test_modes_are_found_where_places_never_have_mass_and_for_single_ones():
    space = SPACES["matrix"]
    a, b = random_weights(20), random_weights(25)
    assert all(part.isfinite().all() for part in slow_modes(space, a, b, EPS, 64))
    model = single(ModalPotential.for_geometry(Dense(torch.rand(1, 4)), (EPS, EPS), width=8))
    f, *_ = model(torch.ones(2, 1).float(), torch.full((2, 4), 0.25).float(), torch.full((2,), EPS).float())
    assert f.isfinite().all()


def test_many_places_have_the_leading_modes_only(monkeypatch):
    space = SPACES["points"]
    n, m = space.shape
    sides = torch.full((n,), 1 / n), torch.full((m,), 1 / m)
    exact = slow_modes(space, *sides, EPS, 3)
    monkeypatch.setattr("metaot.models.modal._EXACT", 5)
    found = slow_modes(space, *sides, EPS, 3)
    assert_close(found.correlation, exact.correlation, 1e-6)
    assert_close((found.source * exact.source).mean(0).abs(), torch.ones(3), 1e-4)


def test_spaces_without_modes_are_refused():
    with pytest.raises(ValueError, match=r"one geometry, got a batch \(2,\)"):
        ModalPotential.for_geometry(Dense(torch.rand(2, 4, 8)), (EPS, EPS))


def test_forbidden_pairs_stay_forbidden():
    C = SPACES["matrix"].cost_rows(slice(None)).clone()
    C[:10, :10] = torch.inf
    problem = near_the_mean(Dense(C))
    guess = predictor(Dense(C), passes=2).predict(problem)
    assert guess.f.isfinite().all()
    assert (marginal_error(problem, guess) < 0.5).all()
