"""The universal network: its exact symmetries, on grids and on clouds, and what it says of Gaussians."""

import numpy as np
import pytest
import torch
from clouds import small_predictor
from strategies import assert_close
from torch import Tensor

from metaot import DualPotentials, Grid, Points, Problem, solve
from metaot.amortize.plane import gaussian_matrix
from metaot.amortize.starts import gaussian_potential
from metaot.amortize.universal import UniversalPotential
from metaot.models import Exportable, Network
from metaot.models.universal import UniversalNetwork, by_parity, from_parity, mirrored
from metaot.potentials import centred

HEIGHT, WIDTH = 9, 7
EPS = 2e-2


@pytest.fixture
def predictor(generator: torch.Generator) -> UniversalPotential:
    return small_predictor(generator, passes=1)


@pytest.fixture
def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, 3, HEIGHT, WIDTH, dtype=torch.float64, generator=generator).pow(3).flatten(2)
    return a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)


def potential(predictor: UniversalPotential, a: Tensor, b: Tensor, grid: Grid, eps: float = EPS) -> Tensor:
    """Return f without its free constant."""
    return centred(a, predictor.warm_start(Problem(a, b, grid, eps)))


def flipped(images: Tensor, axes: tuple[int, ...]) -> Tensor:
    return images.reshape(-1, HEIGHT, WIDTH).flip(axes).flatten(1)


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_reflected_images_have_reflected_potentials(predictor, images, axes: tuple[int, ...], passes: int):
    predictor.passes = passes
    grid = Grid(HEIGHT, WIDTH)
    straight = potential(predictor, *images, grid)
    a, b = (flipped(image, axes) for image in images)
    assert_close(flipped(potential(predictor, a, b, grid), axes), straight, 1e-5)


def test_units_and_places_do_not_matter(predictor, images):
    rows, columns = torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH)
    far = Grid(3 * rows + 7, 3 * columns - 2)
    scaled = potential(predictor, *images, far, 9 * EPS)
    assert_close(scaled / 9, potential(predictor, *images, Grid(HEIGHT, WIDTH)), 1e-5)


def test_moving_one_measure_adds_a_linear_function(predictor, images):
    (a, b), (x, y) = images, Grid(HEIGHT, WIDTH).points
    move = torch.tensor([0.3, -0.2], dtype=torch.float64)
    here = predictor.warm_start(Problem(a, b, Points(x, y), EPS))
    there = predictor.warm_start(Problem(a, b, Points(x, y + move), EPS))
    expected = centred(a, here - 2 * x @ move)
    assert_close(centred(a, there), expected, 1e-5)


def test_a_cloud_of_pixels_is_the_image(predictor, images):
    a, b = images
    grid = Grid(HEIGHT, WIDTH)
    assert_close(
        predictor.predict(Problem(a, b, Points(*grid.points), EPS)).f,
        predictor.predict(Problem(a, b, grid, EPS)).f,
        1e-5,
    )


def test_clouds_of_a_batch_are_predicted_as_one_by_one(predictor, generator):
    x, y = (torch.rand(2, n, 2, generator=generator, dtype=torch.float64) for n in (6, 5))
    a, b = torch.full((2, 6), 1 / 6, dtype=torch.float64), torch.full((2, 5), 1 / 5, dtype=torch.float64)
    together = predictor.predict(Problem(a, b, Points(x, y), EPS)).f
    for k in range(2):
        alone = predictor.predict(Problem(a[k], b[k], Points(x[k], y[k]), EPS)).f
        assert_close(together[k], alone, 1e-5)


def test_without_what_is_learnt_it_is_the_potential_between_gaussians(predictor, images):
    predictor.passes = 0
    predictor.model.outputs.weight.zero_()
    predictor.model.outputs.bias.zero_()
    (a, b), (x, y) = images, Grid(HEIGHT, WIDTH).points
    exact = gaussian_potential(a, x, b, y, EPS)
    f = predictor.warm_start(Problem(a, b, Grid(HEIGHT, WIDTH), EPS))
    assert_close(centred(a, f), centred(a, exact), 1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_mass_on_single_atoms_gives_numbers(predictor, same: bool):
    a = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    a[2, 3] = 1
    b = a if same else a.flip(0)
    problem = Problem(a.flatten(), b.flatten(), Grid(HEIGHT, WIDTH), EPS)
    assert predictor.predict(problem).f.isfinite().all()
    assert bool(solve(problem, init=predictor).converged)


@pytest.mark.parametrize(
    "geometry",
    [Grid(4), Grid(2, 2, 1), Grid(2, 2, cost="l1"), Points(torch.rand(4, 3), torch.rand(4, 3))],
)
def test_other_spaces_are_refused(predictor, geometry: Grid | Points):
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    with pytest.raises(ValueError, match="for images and planar points with the cost 'sqeuclidean'"):
        predictor.predict(Problem(uniform, uniform, geometry, EPS))


def test_an_odd_number_of_modes_is_refused():
    with pytest.raises(ValueError, match="modes must be even"):
        UniversalNetwork(modes=7)


def test_classes_and_mirror_images_are_turned_back(generator):
    table = torch.rand(3, 6, 6, generator=generator)
    classes = by_parity(table[None])
    torch.testing.assert_close(from_parity(classes), table)
    torch.testing.assert_close(mirrored(mirrored(classes)), classes)


def test_the_matrix_between_gaussians_solves_its_equation(generator):
    """F A F + 2 c F = B for the covariances A and B and c = eps/4."""
    roots = torch.rand(2, 5, 2, 2, generator=generator, dtype=torch.float64)
    A, B = roots @ roots.mT
    a, b = (M.flatten(1)[:, [0, 1, 3]].unbind(1) for M in (A, B))
    found = gaussian_matrix(a, b, torch.full((5,), 0.1, dtype=torch.float64))
    F = torch.stack(found, 1)[:, [0, 1, 1, 2]].reshape(5, 2, 2)
    assert_close(F @ A @ F + 0.05 * F, B, 1e-12)
    numbers = gaussian_matrix(*(tuple(float(part[0]) for part in M) for M in (a, b)), 0.1)
    assert numbers == pytest.approx([float(part[0]) for part in found], abs=1e-14)


def test_gradients_reach_every_weight(images):
    network = UniversalNetwork(modes=8, width=12, hidden=10, depth=1, correction=10, passes=1, unrolled=2)
    a, b = images
    problem = Problem(a, b, Grid(HEIGHT, WIDTH), EPS)
    stages = UniversalPotential(network, (1e-3, 1e-1)).stages(problem)
    assert len(stages) == 3
    guesses = [DualPotentials.from_f(problem, f.double()) for f in stages]
    sum((guess.f * problem.a).sum() + (guess.g * problem.b).sum() for guess in guesses).backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    ("sizes", "eps"),
    [((9, 7), 1e-5), ((17, 33), 1e-3), ((2, 40), 1e-1), ((7, 9), 1e3), ((1, 1), 1e-2), ((16, 16), None)],
)
def test_arrays_are_predicted_as_tensors_and_alone_as_in_a_batch(
    batch: int, sizes: tuple[int, int], eps: float | None, predictor, generator
):
    """With weights that are zero, also along whole borders, and that lie in memory by columns."""
    predictor.passes = 2
    a, b = torch.rand(2, batch, *sizes, dtype=torch.float64, generator=generator).pow(4)
    a[:, :1], a[:, :, -4:], b[a > 0.9] = 0, 0, 0
    a[:, -1, 0] = b[:, 0, 0] = 0.5
    a, b = ((w.flatten(1) / w.sum((1, 2))[:, None]).T.contiguous().T for w in (a, b))
    each = 1e-3 + 0.05 * torch.rand(batch, dtype=torch.float64, generator=generator)
    problem = Problem(a, b, Grid(*sizes), each if eps is None else eps)
    by_torch, start = predictor.stages(problem), predictor.warm_start(problem)
    alone = predictor.predict(problem[-1]).f
    assert_close(alone, predictor.predict(problem).f[-1], 1e-5)
    predictor.fast = OnArrays()
    for mine, theirs in zip(predictor.stages(problem), by_torch, strict=True):
        assert_close(mine, theirs, 1e-5)
    assert_close(predictor.warm_start(problem), start, 1e-5)


class OnArrays(Network):
    """The network itself, called with arrays."""

    def of(self, model: Exportable, *inputs: Tensor) -> Network:
        self.model = model
        return self

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(value.numpy() for value in self.model(*map(torch.from_numpy, inputs)))

    def correct(self, missing: np.ndarray, *features: np.ndarray) -> np.ndarray:
        return self.model.correct(*map(torch.from_numpy, (missing, *features))).numpy()


def test_predictions_have_derivatives_in_eps(predictor, images):
    eps = torch.full((3,), EPS, dtype=torch.float64, requires_grad=True)
    f = predictor.predict(Problem(*images, Grid(HEIGHT, WIDTH), eps)).f
    (slope,) = torch.autograd.grad(f.square().sum(), eps)
    assert (slope != 0).all()
