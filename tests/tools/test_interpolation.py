import pytest
import torch
from strategies import assert_close
from torch import Tensor

from metaot import DualPotentials, Grid, Points, Problem, solve
from metaot.amortize import GaussianStart
from metaot.potentials import source_marginal, target_marginal
from metaot.tools import displacement_interpolation


def dirac(n: int, place: int) -> Tensor:
    return torch.zeros(n).index_fill(0, torch.tensor(place), 1.0)


def exact(problem: Problem) -> DualPotentials:
    return solve(problem, tol=1e-9).potentials


@pytest.fixture
def images() -> Problem:
    a, b = torch.rand(2, 2, 3, 30).clamp_min(0.4) - 0.4
    return Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Grid(6, 5), 0.2)


def test_the_ends_are_the_marginals_of_the_plan(images: Problem) -> None:
    guess = DualPotentials(0.01 * torch.randn(images.a.shape), 0.01 * torch.randn(images.b.shape))
    first, last = (displacement_interpolation(images, guess, t) for t in (0.0, 1.0))
    assert_close(first, source_marginal(images, guess))
    assert_close(last, target_marginal(images, guess))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_mass_and_mean_move_as_they_must(images: Problem, t: float) -> None:
    between = displacement_interpolation(images, exact(images), t)
    assert_close(between.sum(-1), torch.ones(2, 3))
    points = images.geometry.points[0]
    assert_close(between @ points, (1 - t) * images.a @ points + t * images.b @ points, 1e-6)


def test_a_translated_blob_moves_linearly() -> None:
    grid = Grid(17, 9)
    blob = torch.zeros(17, 9)
    blob[2:5, 1:4] = torch.rand(3, 3)
    blob /= blob.sum()
    moved = [blob.roll((4 * k, 2 * k), (0, 1)).flatten() for k in range(3)]
    problem = Problem(moved[0], moved[2], grid, 1e-4)
    start = GaussianStart().predict(problem)  # exact for a translation at small eps
    half = displacement_interpolation(problem, start, 0.5)
    assert_close(half, moved[1])


def test_a_dirac_between_atoms_is_shared_bilinearly() -> None:
    problem = Problem(dirac(12, 0), dirac(12, 6), Grid(3, 4), 1e-2)  # from (0, 0) to (1, 2) in atoms
    image = displacement_interpolation(problem, exact(problem), 0.25).reshape(3, 4)
    expected = torch.zeros(3, 4)
    expected[:2, :2] = torch.tensor([0.75, 0.25])[:, None] * torch.tensor([0.5, 0.5])
    assert_close(image, expected)


UP, DOWN = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([3.0, 1.0, 0.0])


@pytest.mark.parametrize(("axes", "start", "end"), [((UP,), 0, 2), ((DOWN,), 2, 0), ((UP, 1, DOWN), 2, 6)])
def test_axes_may_be_uneven_turned_or_many(axes: tuple[int | Tensor, ...], start: int, end: int) -> None:
    grid = Grid(*axes)
    n = grid.shape[0]
    problem = Problem(dirac(n, start), dirac(n, end), grid, 1e-2)
    between = displacement_interpolation(problem, exact(problem), 0.5)
    points = grid.points[0]
    assert_close(between @ points, (points[start] + points[end]) / 2)
    assert (between > 0).sum() == 2 ** sum(len(axis) > 1 for axis in grid.axes)


def test_blocks_and_batches_change_nothing(images: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(images.a, images.b, images.geometry, torch.tensor([[0.1, 0.2, 0.4]]).expand(2, 3))
    potentials = exact(problem)
    whole = displacement_interpolation(problem, potentials, 0.4)
    monkeypatch.setattr("metaot.tools.plan.BLOCK", 7 * 30)
    assert_close(displacement_interpolation(problem, potentials, 0.4), whole)
    single = displacement_interpolation(problem[1, 2], potentials[1, 2], 0.4)
    assert_close(single, whole[1, 2])


def test_bad_arguments_are_named(images: Problem) -> None:
    potentials = DualPotentials(images.a, images.b)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        displacement_interpolation(images, potentials, 1.5)
    cloud = Problem(images.a, images.b, Points(torch.rand(30, 2), torch.rand(30, 2)), 1e-2)
    with pytest.raises(ValueError, match="for a Grid, got Points"):
        displacement_interpolation(cloud, potentials, 0.5)
