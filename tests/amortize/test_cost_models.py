"""A network that reads costs: what is built in, and what it refuses."""

import pytest
import torch
from torch import Tensor

from metaot import Dense, Points, Problem, Sinkhorn, solve
from metaot.amortize.costs import CostPotential, encode, finite
from metaot.models import single
from metaot.models.costs import CostNetwork
from metaot.objectives.dual import dual_loss

N, M, EPS = 12, 70, 0.03


def predictor(**settings: object) -> CostPotential:
    """Return a network of random weights in float64: what is built in holds for any."""
    torch.default_generator.manual_seed(0)
    model = CostNetwork(cells=8, rows=4, **settings).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return CostPotential(model.requires_grad_(False))


def drawn(seed: int, *, equal: bool = False, forbidden: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Draw two problems: distances in the plane, where some targets are ends of one road."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(2, size, generator=g, dtype=torch.float64) ** 2 + 1e-3 for size in (N, M))
    if equal:
        a, b = torch.ones_like(a), torch.ones_like(b)
    x, y = (torch.rand(2, size, 2, generator=g, dtype=torch.float64) for size in (N, M))
    C = torch.cdist(x, y)
    C[..., 10:20] = C[..., :1] + torch.rand(10, generator=g, dtype=torch.float64)
    if forbidden:
        C[torch.rand(C.shape, generator=g) < 0.1] = torch.inf
    return a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), C


def potentials(a: Tensor, b: Tensor, C: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    found = predictor().predict(Problem(a, b, Dense(C), eps))
    return found.f, found.g


KINDS = [(equal, forbidden) for equal in (False, True) for forbidden in (False, True)]


@pytest.mark.parametrize(("equal", "forbidden"), KINDS)
def test_symmetries_are_exact(equal: bool, forbidden: bool) -> None:
    a, b, C = drawn(1, equal=equal, forbidden=forbidden)
    f, g = potentials(a, b, C)
    u, v = torch.randn(2, N, dtype=torch.float64), torch.randn(2, M, dtype=torch.float64)
    moved_f, moved_g = potentials(a, b, C + u[..., None] + v[:, None])
    for change, expected in ((moved_f - f, u), (moved_g - g, v)):
        off = change - expected
        assert (off - off.mean(-1, keepdim=True)).abs().max() < 1e-12
    rows, columns = torch.randperm(N), torch.randperm(M)
    turned_f, turned_g = potentials(a[:, rows], b[:, columns], C[:, rows][..., columns])
    torch.testing.assert_close(turned_f, f[:, rows], rtol=0, atol=1e-12)
    torch.testing.assert_close(turned_g, g[:, columns], rtol=0, atol=1e-12)
    scaled_f, scaled_g = potentials(a, b, 7.3 * C, 7.3 * EPS)
    torch.testing.assert_close(scaled_f, 7.3 * f, rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled_g, 7.3 * g, rtol=0, atol=1e-12)


def test_any_geometry_and_a_shared_cost() -> None:
    a, b, _ = drawn(2)
    x, y = torch.rand(N, 2, dtype=torch.float64), torch.rand(M, 2, dtype=torch.float64)
    cloud = Points(x, y, "euclidean")
    model = predictor()
    f = model.predict(Problem(a, b, cloud, EPS)).f
    C = cloud.cost_rows(slice(None))
    torch.testing.assert_close(f, model.predict(Problem(a, b, Dense(C), EPS)).f)
    one = model.predict(Problem(a[1], b[1], Dense(C), EPS)).f
    torch.testing.assert_close(one, f[1], rtol=0, atol=1e-12)


def test_atoms_without_mass_change_nothing() -> None:
    a, b, C = drawn(3)
    f, _ = potentials(a, b, C)
    none = torch.zeros(2, 5, dtype=torch.float64)
    longer = torch.cat([C, torch.rand(2, N, 5, dtype=torch.float64)], -1)
    torch.testing.assert_close(potentials(a, torch.cat([b, none], -1), longer)[0], f, rtol=0, atol=1e-12)
    wider = torch.cat([C, torch.rand(2, 5, M, dtype=torch.float64)], -2)
    torch.testing.assert_close(potentials(torch.cat([a, none], -1), b, wider)[0][:, :N], f, rtol=0, atol=1e-4)


def test_the_mass_of_all_targets_is_seen() -> None:
    a, b, C = drawn(4)
    model = predictor().model
    seen = encode(Problem(a, b, Dense(C), EPS), model)
    for weights in seen.weights:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, dtype=torch.float64))
    everything = encode(Problem(a, b, Dense(C), EPS), predictor(shares=[2, 1]).model)
    order = b.argsort(-1, descending=True)
    torch.testing.assert_close(everything.weights[-1], b.gather(-1, order))


def test_forbidden_pairs_cost_more_than_all_others() -> None:
    *_, C = drawn(5, forbidden=True)
    priced, is_allowed = finite(C), torch.isfinite(C)
    torch.testing.assert_close(priced[is_allowed], C[is_allowed])
    u, v = priced.mean(-1, keepdim=True), priced.mean(-2, keepdim=True)
    without = priced - u - v + priced.mean((-2, -1), keepdim=True)
    assert without[~is_allowed].min() > without[is_allowed].mean()
    a, b, _ = drawn(5)
    problem = Problem(a, b, Dense(C), EPS)
    plan = solve(problem, init=predictor(), tol=1e-8).plan()
    assert plan[~is_allowed].max() == 0


def test_problems_unlike_those_of_the_training_are_refused() -> None:
    a, b, C = drawn(6)
    model = predictor()
    model.model.spreads.copy_(torch.tensor([2.0, 20.0]))
    for eps, words in ((1.0, "times less"), (1e-3, "times more")):
        with pytest.raises(ValueError, match=words) as raised:
            model.predict(Problem(a, b, Dense(C), eps))
        assert "differ by 2 to 20 eps" in str(raised.value)
    assert "problem [1]" in str(_refused(model, Problem(a, b, Dense(C), torch.tensor([0.03, 1.0]).double())))


def _refused(model: CostPotential, problem: Problem) -> ValueError:
    with pytest.raises(ValueError, match="trained") as raised:
        model.predict(problem)
    return raised.value


def test_levels_must_fit() -> None:
    with pytest.raises(ValueError, match="an entry for each level"):
        CostNetwork(shares=[4], rounds=[1, 1])
    with pytest.raises(ValueError, match="the largest first"):
        CostNetwork(shares=[4, 10], rounds=[1, 1])


def test_learns_to_save_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    model = single(CostNetwork(shares=[2, 1], rounds=[2, 2], cells=8, rows=4))
    learner = CostPotential(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-2)
    test = random(torch.Generator().manual_seed(1), 32)
    cold, untrained = (mean_steps(test, init) for init in (None, learner))
    for _ in range(12):
        problem = random(generator, 8)
        optimiser.zero_grad()
        (f,) = learner.stages(problem)
        dual_loss(problem, f).mean().backward()
        optimiser.step()
    assert mean_steps(test, learner) < min(0.65 * cold, 0.75 * untrained)


def mean_steps(problem: Problem, init: CostPotential | None) -> float:
    return float(solve(problem, init=init, solver=Sinkhorn(), tol=1e-3).steps.double().mean())


def random(generator: torch.Generator, batch: int) -> Problem:
    x, y = (torch.rand(batch, size, 2, generator=generator, dtype=torch.float64) for size in (N, 40))
    a, b = (torch.rand(batch, size, generator=generator, dtype=torch.float64) + 0.1 for size in (N, 40))
    return Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Dense(torch.cdist(x, y)), 0.01)
