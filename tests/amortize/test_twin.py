"""The twin of a model in numpy that is kept: it follows what happens to the weights."""

import copy
import pickle

import torch

from metaot.amortize.prepared import Twin
from metaot.amortize.universal import UniversalPotential
from metaot.geometry import Grid
from metaot.models.universal import UniversalNetwork
from metaot.problem import Problem


def predictor() -> UniversalPotential:
    """Return a small universal model with random weights."""
    torch.manual_seed(0)
    model = UniversalNetwork(modes=4, width=8, hidden=8, depth=1, correction=8).requires_grad_(False)
    return UniversalPotential(model, (1e-3, 1e-1))


def answers(predictor: UniversalPotential) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the twin and what the network in torch say."""
    a, b = torch.rand(2, 2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    both = Problem(a, b, Grid(5, 6), 0.01)
    *_, f = predictor.model.stages(both)
    return predictor.predict(both[0]).f, f[0].double()


def test_the_twin_follows_the_weights():
    one = predictor()
    first = answers(one)
    one.model.inputs.weight.mul_(2)
    written = answers(one)
    state = {name: 1.5 * value for name, value in one.model.state_dict().items()}
    one.model.load_state_dict(state, assign=True)
    replaced = answers(one.__class__(one.model.requires_grad_(False), one.eps)), answers(one)
    assert not torch.allclose(first[0], written[0], atol=1e-4)
    assert not torch.allclose(written[0], replaced[1][0], atol=1e-4)
    for twin, network in (first, written, *replaced):
        torch.testing.assert_close(twin, network, rtol=0, atol=2e-5)


def test_it_is_made_once():
    model, twin = predictor().model, Twin()
    assert twin.of(model) is twin.of(model)
    other = copy.deepcopy(model)
    assert twin.of(other) is not twin.of(model)


def test_a_copy_and_a_pickle_have_their_own():
    one = predictor()
    expected = answers(one)[0]
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        other.model.inputs.weight.mul_(2)
        twin, network = answers(other)
        torch.testing.assert_close(twin, network, rtol=0, atol=2e-5)
        assert not torch.allclose(twin, expected, atol=1e-4)
