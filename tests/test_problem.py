"""Problems: what is refused at once, and with which words; parts, transposes and other dtypes."""

import pytest
import torch
from hypothesis import strategies as st
from strategies import (
    SPACES,
    assert_close,
    given_problems,
    matrix,
    random_problem,
    temperatures,
    unchecked,
    weights,
)

from metaot.geometry import Dense, Grid, Points
from metaot.problem import Problem

QUARTERS = torch.full((2, 3, 4), 0.25, dtype=torch.float64)


def changed(value: float) -> torch.Tensor:
    """Put this value at [1, 2, 3] of the weights."""
    a = QUARTERS.clone()
    a[1, 2, 3] = value
    return a


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (changed(torch.nan), r"{} must be finite, got {}\[1, 2, 3\] = nan"),
        (changed(torch.inf), r"{} must be finite, got {}\[1, 2, 3\] = inf"),
        (changed(-0.25), r"{} must not be negative, got {}\[1, 2, 3\] = -0.25"),
        (changed(0.5), r"{} must sum to one, got sum {}\[1, 2\] = 1.25: divide by {}.sum"),
        (QUARTERS[0, 0] / 2, r"{} must sum to one, got sum {} = 0.5"),
        (QUARTERS.half(), r"{} must be float32 or float64, got torch.float16: use .double\(\)"),
        (QUARTERS.bfloat16(), r"{} must be float32 or float64, got torch.bfloat16"),
        (QUARTERS.to(torch.complex128), r"{} must be float32 or float64, got torch.complex128"),
        (QUARTERS[0, 0, 0], r"{} must have the shape \(\*batch, atoms\), got \(\)"),
        (QUARTERS[..., :0], r"{} must have the shape \(\*batch, atoms\), got \(2, 3, 0\)"),
    ],
)
def test_wrong_weights(name, weights, message):
    parts = {"a": QUARTERS, "b": QUARTERS} | {name: weights}
    with unchecked(), pytest.raises(ValueError, match=message.replace("{}", name)):
        Problem(**parts, geometry=Grid(4), eps=0.1)


@pytest.mark.parametrize(
    ("b", "geometry", "message"),
    [
        (QUARTERS[0], Grid(4), r"a of shape \(2, 3, 4\) and b of \(3, 4\) differ in their batch"),
        (QUARTERS, Grid(5), r"weights of sizes \(4, 4\) do not fit the geometry of sizes \(5, 5\)"),
        (QUARTERS, Dense(torch.zeros(4, 3)), r"\(4, 4\) do not fit the geometry of sizes \(4, 3\)"),
        (QUARTERS, Dense(torch.zeros(3, 4, 4)), r"a batch \(2, 3\) of weights .* a batch \(3,\)"),
    ],
)
def test_parts_that_do_not_fit(b, geometry, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        Problem(QUARTERS, b, geometry, 0.1)


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_eps(eps):
    with unchecked(), pytest.raises(ValueError, match=f"eps must be positive and finite, got {eps}"):
        Problem(QUARTERS, QUARTERS, Grid(4), eps)
    each = torch.ones(2, 3)
    each[1, 0] = eps
    with unchecked(), pytest.raises(ValueError, match=rf"positive and finite, got eps\[1, 0\] = {eps:g}"):
        Problem(QUARTERS, QUARTERS, Grid(4), each)
    with unchecked(), pytest.raises(ValueError, match=r"the batch's shape \(2, 3\), got \(3,\)"):
        Problem(QUARTERS, QUARTERS, Grid(4), torch.ones(3))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-7), (torch.float32, 1e-5)], ids=str)
def test_rounding_of_the_mass_is_forgiven(dtype, rounding):
    a = torch.tensor([0.5, 0.5 + rounding], dtype=dtype)
    Problem(a, a, Grid(2), 0.1)
    with unchecked(), pytest.raises(ValueError, match="must sum to one"):
        Problem(a + 100 * rounding, a, Grid(2), 0.1)


def test_the_geometry_and_eps_follow_the_weights():
    a = weights(3, 2).float()
    problem = Problem(a, a, Dense(torch.zeros(2, 2)), torch.ones(3))
    assert matrix(problem.geometry).dtype == torch.float32
    assert problem.eps.dtype == torch.float32
    assert problem.to(torch.empty(0)).a.dtype == torch.float64
    assert matrix(problem.to(torch.empty(0)).geometry).dtype == torch.float64


@given_problems()
def test_the_transpose_of_the_transpose(problem):
    assert_close(problem.T.a, problem.b, 0)
    assert_close(problem.T.b, problem.a, 0)
    twice = problem.T.T
    assert twice.a is problem.a
    assert twice.b is problem.b
    assert twice.eps is problem.eps
    assert_close(matrix(twice.geometry), matrix(problem.geometry), 0)


@pytest.mark.parametrize("name", ["dense", "dense, one each", "points, one each"])
@pytest.mark.parametrize(
    "index",
    [
        0,
        (1, 2),
        slice(1),
        (slice(None), torch.tensor([2, 0])),
        torch.tensor([1, 0, 1]),
        torch.tensor([[True, False, True], [False, True, True]]),
    ],
    ids=str,
)
def test_an_index_takes_a_part_of_everything(name, index):
    problem = random_problem(SPACES[name], (2, 3), temperatures((2, 3)))
    part = problem[index]
    for mine, whole in ((part.a, problem.a), (part.b, problem.b), (part.eps, problem.eps)):
        assert_close(mine, whole[index], 0)
    if problem.geometry.batch_shape:
        assert_close(matrix(part.geometry), matrix(problem.geometry)[index], 0)
    else:
        assert part.geometry is problem.geometry
    Problem(part.a, part.b, part.geometry, part.eps)


@given_problems(each=st.booleans())
def test_flat_has_one_batch_dimension(problem, each):
    batch, geometry = problem.batch_shape, problem.geometry
    flat = Problem(problem.a, problem.b, geometry, temperatures(batch) if each else problem.eps).flat()
    assert flat.batch_shape == (batch.numel(),)
    assert_close(flat.a.reshape(problem.a.shape), problem.a, 0)
    assert_close(flat.b.reshape(problem.b.shape), problem.b, 0)
    assert_close(matrix(flat.geometry).reshape(matrix(geometry).shape), matrix(geometry), 0)
    Problem(flat.a, flat.b, flat.geometry, flat.eps)


def test_one_eps_for_every_instance_stays_a_number():
    with unchecked():
        assert isinstance(Problem(QUARTERS, QUARTERS, Grid(4), 1).eps, float)
    assert Problem(QUARTERS, QUARTERS, Grid(4), 0.1)[0].flat().eps == 0.1


@pytest.mark.parametrize("name", ["dense", "points", "points, callable", "grid, callable"])
def test_normalised_are_double_and_have_mass_one_and_a_cost_that_agrees_with_its_transpose(name):
    double = random_problem(SPACES[name], (3,), temperatures((3,)))
    single = Problem(1.00001 * double.a.float(), double.b.float(), double.geometry, double.eps)
    again = single.normalised()
    assert again.a.dtype == again.b.dtype == again.eps.dtype == torch.float64
    for side in (again.a, again.b):
        assert_close(side.sum(-1), 1.0, 1e-15)
    assert_close(again.a, double.a, 1e-7)
    assert_close(matrix(again.geometry), matrix(double.geometry), 1e-6)
    assert_close(matrix(again.geometry.T), matrix(again.geometry).mT, 1e-15)
    assert double.normalised().geometry is double.geometry


def test_a_cost_of_the_users_is_asked_in_the_dtype_that_it_knows():
    layer = torch.nn.Linear(2, 3, dtype=torch.float32)
    cloud = Points(
        torch.rand(4, 2).float(), torch.rand(4, 2).float(), lambda x, y: torch.cdist(layer(x), layer(y))
    )
    problem = Problem(QUARTERS.float(), QUARTERS.float(), cloud, 0.1).normalised()
    assert problem.geometry.softmin(problem.b, 0.1).dtype == torch.float64
