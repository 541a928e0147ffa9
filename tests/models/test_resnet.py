"""The paper's hypernetwork: pictures in, exchanged pictures exchange the halves."""

import pytest
import torch
from clouds import clouds
from strategies import assert_close

from metaot.amortize.maps import AmortizedMap
from metaot.brenier import SampleProblem
from metaot.models.resnet import ResNet18, ResNetIcnn


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


def test_samples_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="this model reads pictures"):
        AmortizedMap(ResNetIcnn.for_dim(3).float()).predict(clouds(2))
