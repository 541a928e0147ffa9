"""Frames: linear transport is the identity in them, and exchanging the measures exchanges the halves."""

import pytest
import torch
from clouds import clouds
from strategies import assert_close, unchecked

from metaot.amortize.maps import BuresStart
from metaot.brenier import Frame, SampleProblem
from metaot.gaussian import linear_maps


def covariance(z: torch.Tensor) -> torch.Tensor:
    centred = z - z.mean(-2, keepdim=True)
    return centred.mT @ centred / z.shape[-2]


def test_linear_transport_is_the_identity_between_measures_of_one_covariance() -> None:
    problem = clouds(4, n=300)
    frame = Frame.gaussian(problem)
    u, v = frame.enter(problem.x), frame.T.enter(problem.y)
    assert_close(u.mean(-2), 0.0)
    assert_close(v.mean(-2), 0.0)
    assert_close(covariance(u), covariance(v), atol=0.01)
    assert_close(covariance(u).diagonal(dim1=1, dim2=2).mean(1), 1.0, atol=0.01)
    assert_close(frame.outside(u), problem.x)
    moved = frame.T.outside(u)
    assert_close(moved.mean(-2), problem.y.mean(-2))
    assert_close(covariance(moved), covariance(problem.y), atol=0.02)
    M = frame.scale[:, None, None] * frame.U.mT @ frame.U
    assert_close(M, M.mT)
    assert torch.linalg.eigvalsh(M).min() > 0


@pytest.mark.parametrize("kind", [Frame.gaussian, Frame.identity])
def test_the_inner_product_is_kept_and_sides_exchange(kind) -> None:
    problem = clouds(4, n=30)
    frame, back = kind(problem), kind(problem.T)
    u, v = frame.enter(problem.x), frame.T.enter(problem.y)
    inner = ((problem.x - frame.m[:, None]) * (problem.y - frame.n[:, None])).sum(-1)
    assert_close(frame.scale[:, None] * (u * v).sum(-1), inner)
    assert_close(back.enter(problem.y), v, atol=1e-7)


@pytest.mark.parametrize("kind", ["any", "grey", "one colour", "both one colour"])
def test_clouds_without_volume_have_a_linear_map_of_tensors_and_of_arrays(kind: str) -> None:
    x, y = torch.rand(2, 50, 3).float()
    x = {"any": x, "grey": x[:, :1].expand(-1, 3)}.get(kind, x[:1].expand(50, -1))
    y = y[:1].expand(50, -1) if kind == "both one colour" else y
    for source, target in ((x, y), (y, x)):
        expected = BuresStart().predict(SampleProblem(source, target))
        found = linear_maps(source.numpy(), target.numpy())
        assert_close(expected.push(source).mean(-2), target.mean(-2), atol=1e-6)
        assert_close(torch.from_numpy(found.push(source.numpy())), expected.push(source), atol=1e-5)
        assert_close(torch.from_numpy(found.pull(target.numpy())), expected.pull(target), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.rand(5, 3), torch.rand(5, 2), "may differ only in the number of samples"),
        (torch.rand(2, 5, 3), torch.rand(3, 5, 3), "may differ only in the number of samples"),
        (torch.full((5, 3), torch.nan), torch.rand(5, 3), "x must be finite"),
        (torch.rand(5), torch.rand(5), r"x must have the shape \(\*batch, samples, d\)"),
        (torch.rand(5, 3).half(), torch.rand(5, 3), "float16"),
    ],
)
def test_samples_that_do_not_fit_are_refused(x: torch.Tensor, y: torch.Tensor, words: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=words):
        SampleProblem(x, y)


def test_context_changes_sides_too() -> None:
    problem = SampleProblem(torch.rand(4, 5, 3), torch.rand(4, 6, 3), torch.rand(4, 2, 8))
    assert torch.equal(problem.T.context[:, 0], problem.context[:, 1])
    assert problem[1].context.shape == (2, 8)
    with pytest.raises(ValueError, match=r"context must have the shape \(4, 2\) and more"):
        SampleProblem(torch.rand(4, 5, 3), torch.rand(4, 6, 3), torch.rand(4, 8))
