"""Road networks: travel times are those of fastest ways, and problems of a split share nothing with the others."""

import sys
from dataclasses import replace

import pytest
import torch
from strategies import assert_close
from torch import Tensor

import metaot
from metaot.data import RoadNetwork, Roads, Split
from metaot.problem import Problem

SMALL = Roads(batch=4, suppliers=8, customers=30, nodes=200, networks=3)


def drawn(source: Roads, split: Split, seed: int = 0) -> Problem:
    return source.split(split).sample(torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> RoadNetwork:
    pytest.importorskip("scipy")
    return RoadNetwork.drawn(200, torch.Generator().manual_seed(0))


def relaxed(times: Tensor, roads: Tensor, start: int) -> Tensor:
    """Return the times of the fastest ways from a junction, by the method of Bellman and Ford."""
    best = torch.full((200,), torch.inf).index_fill(0, torch.tensor([start]), 0.0)
    both, ends = torch.cat([roads, roads.flip(1)]), torch.cat([times, times])
    while True:
        better = best.scatter_reduce(0, both[:, 1], best[both[:, 0]] + ends, "amin")
        if torch.equal(better, best):
            return best
        best = better


def test_travel_times_are_those_of_the_fastest_ways(network: RoadNetwork, generator: torch.Generator) -> None:
    times, closed = network.traffic(8.0, generator)
    found = network.travel_times(torch.tensor([3, 17]), times)
    for row, start in zip(found, (3, 17), strict=True):
        assert_close(row, relaxed(times, network.roads, start), atol=1e-12)
    assert found.isfinite().all()
    delays = times / (network.times * network.congestion(8.0))
    assert closed.any()
    assert delays[closed].min() > 5 * delays[~closed].max()


def test_roads_do_not_cross(network: RoadNetwork) -> None:
    ends = network.points[network.roads]
    (p, q), (r, s) = ends[:, None].unbind(-2), ends[None].unbind(-2)

    def side(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return (v - u)[..., 0] * (w - u)[..., 1] - (v - u)[..., 1] * (w - u)[..., 0]

    crossing = (side(p, q, r) * side(p, q, s) < -1e-12) & (side(r, s, p) * side(r, s, q) < -1e-12)
    assert not crossing.any()


def test_a_place_is_congested_at_its_hour(network: RoadNetwork) -> None:
    first = replace(network, heights=network.heights * (torch.arange(6) == 0))
    hour = float(network.hours[0])
    nearest = (network.points[network.roads].mean(1) - network.places[0]).norm(dim=-1).argmin()
    assert first.congestion(hour).argmax() == nearest
    assert first.congestion(hour)[nearest] > 1.5
    assert_close(first.congestion(hour + 12), 1.0)


@pytest.mark.parametrize("seen", [False, True])
def test_problems_follow_from_the_seed_and_have_a_cost_each(seen: bool) -> None:
    pytest.importorskip("scipy")
    source = replace(SMALL, seen=seen)
    keys = [(split, seed) for split in ("train", "test") for seed in (3, 4)]
    found = {key: drawn(source, *key).geometry.C for key in keys}
    assert all(torch.equal(C, drawn(source, *key).geometry.C) for key, C in found.items())
    test = source.sample(torch.Generator().manual_seed(3))
    assert torch.equal(test.geometry.C, found["test", 3])
    assert test.geometry.batch_shape == (4,)
    assert metaot.solve(test, tol=1e-3).converged.all()
    kinds = torch.cat(list(found.values())).flatten(1)
    train_with_test = torch.corrcoef(kinds)[:8, 8:]
    assert ((train_with_test > 0.7) == seen).all()  # the same places, or none of them
    assert len(kinds[:8].unique(dim=0)) == (3 if seen else 8)  # three hours; of three networks, other suppliers
    assert len(kinds[8:].unique(dim=0)) == 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_costs_are_the_travel_times_of_one_network(split: Split) -> None:
    pytest.importorskip("scipy")
    (C,) = drawn(Roads(batch=1, suppliers=20, customers=20, nodes=20), split).geometry.C
    assert (C == 0).sum(0).tolist() == (C == 0).sum(1).tolist() == [1] * 20  # every junction has one of each
    D = C[:, (C == 0).double().argmax(1)]
    assert_close(D, D.mT, atol=1e-6)
    assert ((D[:, :, None] + D).amin(1) + 1e-6 >= D).all()


def test_quantities_are_a_few_large_ones_and_eps_a_share_of_the_mean_cost() -> None:
    pytest.importorskip("scipy")
    problem = drawn(replace(SMALL, customers=200), "test")
    share = problem.eps / problem.geometry.C.mean((-2, -1))
    assert ((share >= 0.01) & (share <= 0.05)).all()
    assert (200 * problem.b).std().item() == pytest.approx(0.7**-0.5, abs=0.15)
    same = drawn(replace(SMALL, eps=(0.02, 0.02)), "test")
    assert_close(same.eps / same.geometry.C.mean((-2, -1)), 0.02)


def test_what_cannot_be_drawn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="customers must be at most nodes, got 300 at 200"):
        replace(SMALL, customers=300)
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    with pytest.raises(ImportError, match=r"pip install 'metaot\[roads\]'"):
        drawn(SMALL, "test")
