import pytest
import torch
from blobs import PLAIN, Blobs, Rough, ScaledBlobs, drawn, quick, report
from strategies import assert_close, matrix

from metaot import DualPotentials, Problem, solve
from metaot.amortize import GaussianStart, Predictor
from metaot.evaluation import evaluate
from metaot.potentials import plan


@pytest.mark.parametrize(("eps", "max_steps"), [((1e-1, 5e-2), 5000), ((2e-2,), 3)])
def test_steps_are_those_of_solve(eps: tuple[float, ...], max_steps: int) -> None:
    inits = {"zeros": None, "Gaussian": GaussianStart(), "model": Rough()}
    found = quick(eps=eps, max_steps=max_steps)
    for result in found.results:
        problem = drawn(found, result.eps)
        assert [start.name for start in result.starts] == list(inits)
        for start in result.starts:
            for tol in found.tolerances:
                init = inits[start.name]
                solution = solve(problem, init=init, solver=PLAIN, tol=tol, max_steps=max_steps)
                assert start.steps(tol).tolist() == solution.steps.tolist()
                assert start.reached(tol).tolist() == solution.converged.tolist()
        assert bool(start.reached(1e-3).all()) == start.timings[-1].converged == (max_steps == 5000)


def test_quality_is_that_of_the_plan() -> None:
    result = report().results[0]
    problem = drawn(report(), result.eps)
    C, exact = matrix(problem.geometry), solve(problem, tol=1e-9)
    for quality in result.starts[-1].quality:
        potentials = Rough().predict(problem)
        if quality.steps:
            solution = solve(problem, init=potentials, solver=PLAIN, tol=1e-12, max_steps=quality.steps)
            potentials = solution.potentials
        P = plan(problem, potentials)
        error = (P.sum(-1) - problem.a).abs().sum(-1) + (P.sum(-2) - problem.b).abs().sum(-1)
        cost, best = (P * C).sum((-2, -1)), (exact.plan() * C).sum((-2, -1))
        gap = exact.value - (potentials.f * problem.a).sum(-1) - (potentials.g * problem.b).sum(-1)
        torch.testing.assert_close(quality.l1_error, error)
        torch.testing.assert_close(quality.relative_cost_error, (cost - best).abs() / best, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(quality.dual_gap, gap, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(quality.relative_dual_gap, gap / exact.value, rtol=1e-5, atol=1e-8)


class Wrong(Predictor):
    def predict(self, problem: Problem) -> DualPotentials:
        return DualPotentials.from_f(problem, torch.linspace(0, 9, 64).expand_as(problem.a))


class Slow(Predictor):
    """Takes eight seconds by its own clock; nothing else takes any."""

    now = 0.0

    def predict(self, problem: Problem) -> DualPotentials:
        self.now += 8
        return DualPotentials.from_f(problem, torch.zeros_like(problem.a))


def test_a_prediction_worse_than_zeros_is_judged_and_replaced() -> None:
    zeros, _, model = quick(Wrong()).results[0].starts
    assert model.replaced.all()
    assert not zeros.replaced.any()
    assert (model.quality[0].l1_error > zeros.quality[0].l1_error).all()
    assert_close(model.curve, zeros.curve)


def test_problems_with_costs_of_their_own_are_judged_in_units_of_their_costs() -> None:
    settings = {"eps": (1e-1,), "instances": 6, "seconds": 0.0, "tolerances": (1e-2, 1e-3)}
    shared, own = (evaluate(Rough(), set_, **settings) for set_ in (Blobs(dense=True), ScaledBlobs()))
    assert own.geometry == "64 x 64 costs, others in each problem"
    for one, other in zip(shared.results[0].starts, own.results[0].starts, strict=True):
        torch.testing.assert_close(one.curve, other.curve)
        for before, after in zip(one.quality, other.quality, strict=True):
            assert_close(before.relative_dual_gap, after.relative_dual_gap, atol=1e-8)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_time_of_the_start_counts_for_each_instance(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr("metaot.evaluation.protocol.perf_counter", lambda: slow.now)
    zeros, _, model = quick(slow, batch=batch).results[0].starts
    assert [timing.seconds.tolist() for timing in zeros.timings] == [[0, 0]] * 2
    assert [timing.seconds.tolist() for timing in model.timings] == [[8 / batch] * 2] * 2


def test_the_same_seed_gives_the_same_problems() -> None:
    curve, again, other = (r.results[0].starts[-1].curve for r in (report(), quick(), quick(seed=1)))
    assert torch.equal(again, curve)
    assert not torch.equal(other[0], curve[0])


def test_without_coordinates_there_is_no_gaussian() -> None:
    found = quick(dense=True)
    assert [start.name for start in found.results[0].starts] == ["zeros", "model"]
    assert "No Gaussian start" in found.table()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": ()}, "eps .* got none"),
        ({"tolerances": (1e-2, 0.0)}, r"positive numbers, got \(0\.01, 0\.0\)"),
        ({"instances": 0}, "instances must be at least 1, got 0"),
        ({"batch": -1}, "batch must be at least 1, got -1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**settings)
