"""Targets that cost the same from everywhere, up to a constant, are one; their masses are kept."""

import pytest
import torch

from metaot.geometry import Dense, Points
from metaot.geometry.groups import Groups, totals


def test_targets_whose_costs_differ_by_a_constant_are_put_together() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(6, 5, generator=generator)
    C = kinds[:, torch.arange(60) % 5] + torch.rand(60, generator=generator)
    groups = Groups.of(Dense(C), 5)
    assert len(groups.index.unique()) <= 5
    for kind in range(5):
        assert len(groups.index[kind::5].unique()) == 1


def test_the_costs_of_a_group_are_the_mean_of_its_members() -> None:
    points = Points(torch.rand(7, 2), torch.rand(90, 2))
    groups = Groups.of(points, 9)
    for group in groups.index.unique():
        mean = points.cost_rows(slice(None))[:, groups.index == group].mean(1)
        assert torch.allclose(groups.costs[:, group], mean)
    b = torch.rand(3, 90)
    assert torch.allclose(totals(b, groups.index, 9).sum(-1), b.sum(-1))


def test_few_targets_are_groups_of_their_own_and_a_batch_has_none() -> None:
    C = torch.rand(4, 8)
    groups = Groups.of(Dense(C), 100)
    assert torch.equal(groups.costs, C)
    with pytest.raises(ValueError, match=r"one geometry, got a batch \(2,\)"):
        Groups.of(Dense(torch.rand(2, 4, 8)), 3)
