"""The map of entropic transport: closed forms, atoms and other points, means that stay where the points live."""

import math

import pytest
import torch
from strategies import SPACES, assert_close, every_batch, on_sphere, random_problem, weights
from torch import Tensor
from torch.nn.functional import normalize

from metaot import Dense, DualPotentials, Grid, Points, Problem, solve
from metaot.entropic_map import EntropicMap
from metaot.geometry import LpPower
from metaot.geometry.costs import great_circle
from metaot.geometry.projections import projection_of

WITH_POINTS = [name for name, space in SPACES.items() if space(()).points is not None]


@every_batch
@pytest.mark.parametrize("name", WITH_POINTS)
def test_on_the_atoms_it_is_the_transport_of_the_solution(name, batch):
    problem = random_problem(SPACES[name], batch, 0.1)
    solution = solve(problem, tol=1e-3)
    x, y = (points.detach() for points in problem.geometry.points)
    sent = solution.map()
    assert_close(sent.push(x).expand(*batch, -1, -1), solution.transport(), 1e-9)
    assert_close(sent.pull(y), EntropicMap(problem.T, solution.potentials.T).push(y), 0)


@pytest.mark.parametrize("cost", ["sqeuclidean", "cosine", LpPower(3), lambda x, y: power(3.0, x, y)])
@pytest.mark.parametrize("own", [False, True], ids=["points shared", "points of each"])
def test_instances_that_share_points_are_each_sent_as_if_alone(cost, own):
    x, y = torch.randn(6, 2), torch.randn(5, 2) + 4
    problem = Problem(weights(3, 6), weights(3, 5), Points(x, y, cost), 1.0)
    potentials = solve(problem).potentials
    new = torch.randn(*(3,) * own, 130, 2)
    together = EntropicMap(problem, potentials).push(new)
    alone = [EntropicMap(problem[i], potentials[i]).push(new[i] if own else new) for i in range(3)]
    assert_close(together, torch.stack(alone), 1e-9)


def test_a_cost_that_knows_no_batches_is_asked_for_one_cloud_where_the_batch_shares_it():
    def cost(x: Tensor, y: Tensor) -> Tensor:
        assert x.ndim == y.ndim == 2
        return (x[:, None] - y).square().sum(-1)

    x, y = torch.randn(6, 2), torch.randn(5, 2)
    own, named = (
        Problem(weights(3, 6), torch.full((3, 5), 0.2), Points(x, y, c), 1.0) for c in (cost, "sqeuclidean")
    )
    f = solve(named).potentials
    assert_close(EntropicMap(own, f).push(x), EntropicMap(named, f).push(x), 1e-9)


def test_of_gaussians_it_is_linear_everywhere():
    """N(0, 1) to N(1, 0.36) at eps = 0.5: slope (sqrt(0.36 + (eps/4)^2) - eps/4)/1, the mean to the mean."""
    x = torch.linspace(-7, 7, 281)
    a, b = ((-((x - mean) ** 2) / (2 * v)).exp() for mean, v in ((0.0, 1.0), (1.0, 0.36)))
    sent = solve(Problem(a / a.sum(), b / b.sum(), Grid(x), 0.5), tol=1e-11).map()
    new = torch.tensor([[-1.03], [0.21], [1.77]])
    slope = math.sqrt(0.36 + 0.125**2) - 0.125
    assert_close(sent.push(new), 1 + slope * new, 1e-7)
    assert_close(sent.pull(1 + new), slope / 0.36 * new, 1e-7)


@pytest.mark.parametrize("cost", ["sphere", "cosine"])
def test_points_of_the_sphere_stay_on_it(cost):
    x, y = on_sphere(12), on_sphere(9)
    solution = solve(Problem(torch.full((12,), 1 / 12), torch.full((9,), 1 / 9), Points(x, y, cost), 0.3))
    for moved in (solution.transport(), solution.map().push(on_sphere(5)), solution.map().pull(on_sphere(5))):
        assert_close(moved.norm(dim=-1), 1.0, 1e-12)


def test_the_mean_on_the_sphere_has_the_least_squared_angles():
    y, w = on_sphere(2, 40), torch.rand(2, 3, 40)
    y = normalize(y + torch.tensor([0.0, 0.0, 2.0]), dim=-1)
    w = w / w.sum(-1, keepdim=True)
    z = projection_of("sphere")(w, on_sphere(2, 3), y).requires_grad_()
    (slope,) = torch.autograd.grad((w * great_circle(z, y) ** 2).sum(), z)
    assert_close(slope - (slope * z).sum(-1, keepdim=True) * z, 0.0, 1e-12)


def power(p: float, x: Tensor, y: Tensor) -> Tensor:
    return (x[..., :, None, :] - y[..., None, :, :]).abs().pow(p).sum(-1)


@every_batch
@pytest.mark.parametrize("p", [2.0, 3.0, 4.0])
def test_a_cost_of_ones_own_leads_to_the_map_of_its_closed_form(p, batch):
    w, x, y = torch.rand(*batch, 5, 7), torch.randn(*batch, 5, 2), torch.randn(*batch, 7, 2) + 4
    w = w / w.sum(-1, keepdim=True)
    expected = projection_of(LpPower(p))(w, x, y)
    assert_close(projection_of(lambda x, y: power(p, x, y))(w, x, y), expected, 1e-8)
    if p == 2:
        assert_close(expected, w @ y, 1e-12)


def test_a_cost_that_is_not_symmetric_leads_into_the_space_of_the_target():
    """For |y - x^2|^2 the slope in x is linear in y: points go to the mean."""
    w, x, y = torch.rand(4, 6), torch.rand(4, 2) + 0.5, torch.rand(6, 2)
    w = w / w.sum(-1, keepdim=True)
    send = projection_of(lambda x, y: (y[..., None, :, :] - x[..., :, None, :] ** 2).square().sum(-1))
    assert_close(send(w, x, y), w @ y, 1e-12)


def test_the_product_has_the_plans_and_maps_of_half_the_squared_distance():
    x, y = torch.randn(8, 3), torch.randn(6, 3)
    a, b = torch.full((8,), 1 / 8), torch.full((6,), 1 / 6)
    one, two = (
        solve(Problem(a, b, Points(x, y, cost), eps), tol=1e-10)
        for cost, eps in (("dot", 0.2), ("sqeuclidean", 0.4))
    )
    assert_close(one.plan(), two.plan(), 1e-9)
    assert_close(one.map().push(torch.ones(2, 3)), two.map().push(torch.ones(2, 3)), 1e-7)


def test_an_atom_without_mass_attracts_nothing_and_predictions_have_maps_as_well():
    y = torch.tensor([[0.0], [1.0], [5.0]])
    problem = Problem([0.5, 0.5], [0.5, 0.5, 0.0], Points([[0.0], [1.0]], y), 0.01)
    sent = EntropicMap(problem, DualPotentials(torch.zeros(2), torch.zeros(3))).push([[4.9]])
    assert_close(sent, 1.0, 1e-9)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"Dense\(C of shape \(2, 2\)\) has no coordinates"):
        solve(Problem([0.5, 0.5], [0.5, 0.5], Dense([[0.0, 1.0], [1.0, 0.0]]), 1.0)).map()
    sent = solve(Problem([0.5, 0.5], [0.5, 0.5], Points([[0.0], [1.0]]), 1.0)).map()
    for points, words in (
        ([[1.0, 2.0]], r"\(k, 1\) or"),
        ([1.0], r"got \(1,\)"),
        ([[math.nan]], r"points\[0, 0\]"),
    ):
        with pytest.raises(ValueError, match=words):
            sent.push(points)
    with pytest.raises(ValueError, match="take p > 1"):
        solve(Problem([0.5, 0.5], [0.5, 0.5], Points([[0.0], [1.0]], cost=LpPower(1)), 1.0)).map().push([[1.0]])
    with pytest.raises(ValueError, match="p must be a finite number"):
        LpPower(0.5)
