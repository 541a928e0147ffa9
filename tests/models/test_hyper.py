"""Hypernetworks: order does not matter, exchanging the measures exchanges the halves, untrained is linear."""

import pytest
import torch
from clouds import clouds
from strategies import assert_close, unchecked

from metaot.amortize.maps import AmortizedMap, BuresStart
from metaot.brenier import Frame, SampleProblem
from metaot.models.palette import PaletteIcnn
from metaot.models.paper import ResNet18, ResNetIcnn


def predictor(passes: int = 1, trained: bool = True, dim: int = 3) -> AmortizedMap:
    model = PaletteIcnn.for_dim(dim, hidden=[16], features=64, width=32, depth=1, passes=passes).float()
    if trained:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return AmortizedMap(model.requires_grad_(False))


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_exchanging_the_measures_exchanges_the_potentials(passes: int) -> None:
    problem = clouds(3)
    model = predictor(passes)
    forth, back = model.predict(problem), model.predict(problem.T)
    assert_close(back.pull(problem.x), forth.push(problem.x), atol=1e-3)
    assert_close(back.push(problem.y), forth.pull(problem.y), atol=1e-3)


def test_the_order_of_samples_does_not_matter() -> None:
    problem, model = clouds(3), predictor()
    mixed = SampleProblem(problem.x[:, torch.randperm(40)], problem.y[:, torch.randperm(40)])
    assert_close(model.predict(mixed).push(problem.x), model.predict(problem).push(problem.x), atol=1e-3)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_a_batch_is_one_by_one(batch: tuple[int, ...]) -> None:
    problem, model = clouds(*batch), predictor()
    moved = model.predict(problem).push(problem.x)
    assert moved.shape == problem.x.shape
    flat = problem.flat()
    for k in range(len(flat.x)):
        alone = model.predict(flat[k]).push(flat.x[k])
        assert_close(moved.reshape(-1, 40, 3)[k], alone, atol=1e-3, rtol=1e-4)


def test_units_do_not_matter() -> None:
    """Scaled and shifted colours are moved alike: the frame takes both out."""
    problem, model = clouds(2), predictor()
    other = SampleProblem(10 * problem.x + 3, 10 * problem.y - 7)
    assert_close(model.predict(other).push(other.x), 10 * model.predict(problem).push(problem.x) - 7, atol=2e-2)


@pytest.mark.parametrize("passes", [0, 2])
def test_untrained_it_is_nearly_the_linear_map(passes: int) -> None:
    problem = clouds(3, n=200)
    pair = predictor(passes, trained=False).predict(problem)
    frame = Frame.gaussian(problem)
    linear = frame.T.outside(frame.enter(problem.x))
    spread = problem.y.std(1).mean()
    assert (pair.push(problem.x) - linear).abs().mean() < 0.1 * spread


def test_starts_without_training() -> None:
    problem = clouds(3, n=200)
    bures = BuresStart().predict(problem)
    assert_close(bures.push(problem.x).mean(1), problem.y.mean(1), atol=1e-6)
    assert_close(bures.pull(bures.push(problem.x)), problem.x, atol=1e-5)


def test_problems_that_a_model_cannot_read_are_refused() -> None:
    with unchecked(), pytest.raises(ValueError, match="trained for dimension 2, got samples of dimension 3"):
        predictor(dim=2).predict(clouds(2))
    with pytest.raises(ValueError, match="this model reads pictures"):
        AmortizedMap(ResNetIcnn.for_dim(3).float()).predict(clouds(2))


def test_exchanging_the_pictures_exchanges_the_potentials() -> None:
    model = ResNetIcnn.for_dim(3, hidden=[8], width=16).float().requires_grad_(False)
    model.leave.weight.normal_(0, 0.1)
    plain = clouds(2)
    problem = SampleProblem(plain.x, plain.y, torch.rand(2, 2, 3, 40, 50))
    forth, back = (AmortizedMap(model).predict(p) for p in (problem, problem.T))
    assert_close(back.pull(problem.x), forth.push(problem.x), atol=1e-3)
    alone = AmortizedMap(model).predict(problem[1])
    assert_close(alone.push(problem.x[1]), forth.push(problem.x)[1], atol=1e-3)


def test_it_is_a_resnet_18() -> None:
    convolutions = [part for part in ResNet18().modules() if isinstance(part, torch.nn.Conv2d)]
    assert len([part for part in convolutions if part.kernel_size != (1, 1)]) == 17
    assert sum(part.weight.numel() for part in convolutions) == 11_166_912
