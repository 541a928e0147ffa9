"""Progressive transport: one step is the entropic map, several are composed, each from the cloud as it is then."""

import math

import pytest
import torch
from strategies import assert_close, every_batch, weights

from metaot import Points, Problem, solve
from metaot.maps import progot
from metaot.maps.progressive import SCHEDULES


def clouds(*batch: int, n: int = 30, m: int = 25, d: int = 2):
    return torch.randn(*batch, n, d), 2 + torch.randn(*batch, m, d)


@every_batch
def test_one_step_is_the_entropic_map(batch):
    x, y = clouds(*batch)
    a, b = weights(*batch, 30), weights(*batch, 25)
    one = progot(x, y, a, b, steps=1, eps=[0.5], tol=1e-9)
    alone = solve(Problem(a, b, Points(x, y), 0.5), tol=1e-9)
    assert_close(one.push(x), alone.transport(), 1e-7)
    assert_close(one.plan(), alone.plan(), 1e-7)
    assert torch.equal(one.steps, alone.steps)


def test_of_gaussians_the_slopes_are_multiplied():
    """From N(0, s^2) to N(1, v) the entropic map has the slope (sqrt(s^2 v + (eps/4)^2) - eps/4)/s^2."""
    x = torch.linspace(-7, 7, 281)
    a, b = ((-((x - mean) ** 2) / (2 * v)).exp() for mean, v in ((0.0, 1.0), (1.0, 0.36)))
    eps = (0.8, 0.4, 0.2)
    sent = progot(x[:, None], x[:, None], a / a.sum(), b / b.sum(), steps=3, eps=eps, tol=1e-11)
    slope, mean = 1.0, 0.0
    for length, temperature in zip(sent.lengths, eps, strict=True):
        step = (math.sqrt(slope**2 * 0.36 + (temperature / 4) ** 2) - temperature / 4) / slope**2
        slope, mean = slope * (1 - length + length * step), mean + length * (1 - mean)
    new = torch.tensor([[-1.03], [0.21], [1.77]])
    assert mean == 1
    assert_close(sent.push(new), 1 + slope * new, 1e-7)


@pytest.mark.parametrize("schedule", [*SCHEDULES, (0.2, 0.5, 0.1)])
def test_each_problem_starts_where_the_points_have_been_sent(schedule):
    x, y = clouds()
    sent = progot(x, y, steps=4, schedule=schedule)
    here = x
    for solution, length in zip(sent.solutions, sent.lengths, strict=True):
        assert_close(solution.problem.geometry.x, here, 1e-12)
        here = here + length * (solution.transport() - here)
    assert_close(sent.push(x), here, 1e-9)
    assert_close(sent.plan(), sent.solutions[-1].plan(), 0)


def test_schedules_end_at_the_target_and_say_how_far_each_step_is():
    x, y = clouds(n=4, m=4)
    done = {
        "constant": [k / 4 for k in range(1, 5)],
        "decelerating": [1 - (1 - 1 / math.e) ** k for k in range(1, 4)] + [1],
        "accelerating": [((k + 1) ** 2 - 1) / 24 for k in range(1, 5)],
        "quartic": [(k / 4) ** 4 for k in range(1, 5)],
    }
    assert done.keys() == SCHEDULES.keys()
    for schedule, expected in done.items():
        left = torch.tensor(progot(x, y, schedule=schedule, eps=[1.0] * 4).lengths).neg().add(1).cumprod(0)
        assert_close(1 - left, torch.tensor(expected), 1e-6)


def test_temperatures_fall_by_equal_factors_from_one_scale_to_the_other():
    x, y = clouds(3)
    eps = torch.stack(progot(x, y, steps=4, beta0=3.0, share=0.5).eps)
    assert_close(eps[0], 3 / 20 * Points(x, y).mean_cost(), 1e-6)
    assert_close(eps[-1], 0.5 / 20 * Points(y, y).mean_cost(), 1e-6)
    assert_close(eps[1:] / eps[:-1], (eps[1] / eps[0]).expand(3, 3), 1e-6)


def test_the_share_is_the_best_on_points_of_the_target_that_are_held_out():
    """Of few points in many dimensions what is between them is learned at high temperatures only."""
    shares = [
        float(progot(x, x, steps=1).eps[0] / (Points(x, x).mean_cost() / 20))
        for x in (torch.rand(400, 1), torch.randn(100, 20))
    ]
    assert shares[0] < shares[1]


def test_the_map_is_nearer_to_the_truth_than_that_of_its_first_temperature():
    x = torch.randn(300, 2)
    y, new = 3 + 2 * torch.randn(300, 2), torch.randn(200, 2)
    sent = progot(x, y)
    first = solve(Problem(sent.solutions[0].problem.a, sent.solutions[0].problem.b, Points(x, y), sent.eps[0]))
    true = 3 + 2 * new
    assert (sent.push(new) - true).square().mean() < (first.map().push(new) - true).square().mean() / 2


@every_batch
def test_instances_are_sent_as_if_alone_and_an_atom_without_mass_changes_nothing(batch):
    x, y = clouds(*batch)
    a, b = weights(*batch, 30), weights(*batch, 25)
    sent = progot(x, y, a, b, eps=(1.0, 0.5, 0.3, 0.2))
    assert bool(sent.converged.all())
    moved = progot(x + 7 * (a == 0)[..., None], y, a, b, eps=(1.0, 0.5, 0.3, 0.2))
    assert_close(sent.push(x), moved.push(x), 1e-9)
    if batch:
        index = (0,) * len(batch)
        alone = progot(x[index], y[index], a[index], b[index], eps=(1.0, 0.5, 0.3, 0.2))
        assert_close(alone.push(x[index]), sent.push(x)[index], 1e-6)


def test_what_it_says():
    x, y = clouds(n=5, m=5)
    assert "4 maps" in repr(progot(x.numpy(), y.tolist()))
    assert not bool(progot(x, y, eps=[1e-3] * 4, max_steps=1).converged)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": "fast"}, "schedule must be one of .*'quartic'.*, got 'fast'"),
        ({"schedule": (0.5, 0.5)}, r"schedule must be 3 numbers between 0 and 1, got \[0.5, 0.5\]"),
        ({"schedule": (0.5, 1.5, 0.5)}, "schedule must be 3 numbers between 0 and 1"),
        ({"eps": (1.0, 0.5)}, "eps must be 4 temperatures, one for each step, got 2"),
        ({"eps": (1.0, 0.5, 0.0, 0.1)}, "eps"),
        ({"beta0": -1.0}, "beta0 must be positive and finite, got -1.0"),
        ({"share": 0.0}, "share must be positive and finite, got 0.0"),
    ],
)
def test_bad_input_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        progot(*clouds(), **arguments)


def test_clouds_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="do not fit"):
        progot(torch.randn(5, 2), torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"x\[1, 0\]"):
        progot([[0.0], [math.nan]], [[1.0]])
