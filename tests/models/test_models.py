"""Every network: shapes, batch independence, JSON round trip, standardised inputs; refinement steps."""

import json
from itertools import pairwise

import pytest
import torch
from strategies import assert_close
from strategies import weights as random_weights

from metaot.geometry import Dense, Geometry, Grid, Points
from metaot.models import MODELS, PotentialModel, RefinedPotential, single
from metaot.models.spectral import Correction
from metaot.potentials import c_transform
from metaot.problem import Problem

CASES = {
    "PotentialMLP": (Dense(torch.rand(12, 9)), {"width": 16, "depth": 2}),
    "SpectralPotential": (Grid(4, 5), {"moments": 3, "modes": 3, "width": 16}),
    "RefinedPotential": (Grid(4, 5), {"first": {"moments": 3, "modes": 3, "width": 16}, "modes": 3, "hidden": 8}),
    "ModalPotential": (
        Points(torch.rand(12, 2), torch.rand(9, 2), "euclidean"),
        {"modes": 5, "width": 16, "hidden": 8, "depth": 1, "correction": 8},
    ),
    "GroupedPotential": (
        Dense(torch.rand(12, 30)),
        {"groups": 9, "fine": 20, "width": 16, "hidden": 8, "depth": 1, "demand": 4},
    ),
}
BOTH = pytest.mark.parametrize("kind", CASES)


def build(kind: str) -> tuple[PotentialModel, Geometry]:
    geometry, settings = CASES[kind]
    return single(MODELS[kind].for_geometry(geometry, (1e-3, 1e-1), **settings)), geometry


def weights(geometry: Geometry, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    n, m = geometry.shape
    return torch.rand(batch, n).softmax(-1).float(), torch.rand(batch, m).softmax(-1).float()


def inputs(model: PotentialModel, batch: int) -> tuple[torch.Tensor, ...]:
    a, b, _ = model.example(batch)
    a, b = torch.rand(a.shape).softmax(-1), torch.rand(b.shape).softmax(-1)
    return a.float(), b.float(), torch.logspace(-3, -1, batch).float()


def test_every_model_is_tested() -> None:
    assert CASES.keys() == MODELS.keys()


@BOTH
def test_an_instance_does_not_see_its_batch(kind: str) -> None:
    model, _ = build(kind)
    a, b, eps = inputs(model, 5)
    f = model(a, b, eps)[0]
    assert f.shape == a.shape
    assert torch.allclose(model(a[2:3], b[2:3], eps[2:3])[0], f[2:3], atol=1e-6)


@BOTH
def test_the_config_is_json_and_rebuilds_the_model(kind: str) -> None:
    model, geometry = build(kind)
    model.standardise(*weights(geometry, 30))
    rebuilt = single(MODELS[kind](**json.loads(json.dumps(model.config))))
    rebuilt.load_state_dict(model.state_dict())
    case = inputs(model, 3)
    assert torch.equal(rebuilt(*case)[0], model(*case)[0])


@BOTH
def test_a_model_depends_on_all_its_inputs_once_trained_a_little(kind: str) -> None:
    model, _ = build(kind)
    case = [value.requires_grad_() for value in inputs(model, 4)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(*case)[0].square().sum().backward()
        optimizer.step()
    for gradient in torch.autograd.grad(model(*case)[0].square().sum(), case):
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("kind", ["SpectralPotential", "RefinedPotential"])
def test_image_models_refuse_what_is_no_image(kind: str) -> None:
    with pytest.raises(ValueError, match="ModalPotential"):
        MODELS[kind].for_geometry(Dense(torch.rand(3, 3)), (0.1, 0.1))


def refined(**settings: int) -> tuple[RefinedPotential, Problem]:
    grid, first = Grid(6, 6), {"moments": 4, "modes": 4, "width": 16, "hidden": 8}
    model = RefinedPotential.for_geometry(grid, (1e-2, 1e-1), first=first, modes=4, hidden=8, **settings)
    return single(model), Problem(random_weights(5, 36), random_weights(5, 36), grid, 0.02)


def test_untrained_refinement_steps_are_sinkhorn_steps() -> None:
    """The correction starts at zero."""
    model, case = refined(passes=3)
    stages = list(model.stages(case, model))
    assert len(stages) == 4
    for earlier, later in pairwise(stages):
        assert_close(later, c_transform(case.T, c_transform(case, earlier.double())), 1e-6)


def test_nothing_missing_nothing_corrected() -> None:
    correction = Correction([4, 4], modes=3, width=8, hidden=8).float()
    torch.nn.init.normal_(correction.outputs.weight)
    x, temperature = torch.rand(2, 8).float(), torch.rand(2, 5).float()
    small = correction(torch.zeros(2, 16).float(), x, temperature).abs().max()
    large = correction(torch.rand(2, 16).float(), x, temperature).abs().max()
    assert small < 1e-3 * large


def test_training_makes_the_refinement_steps_that_are_unrolled() -> None:
    model, case = refined(passes=1, unrolled=2)
    trained, used = list(model.train().stages(case, model)), list(model.eval().stages(case, model))
    assert (len(trained), len(used)) == (3, 2)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(trained, used, strict=False))
