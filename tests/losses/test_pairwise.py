"""Distance matrices: right entries on shared atoms and on clouds, from any start; files; bad input."""

import pytest
import torch
from strategies import assert_close, weights

from metaot import DualPotentials, Grid, Points, Problem, ot_value
from metaot.losses import pairwise, sinkhorn_divergence
from metaot.losses import pairwise as pairwise_function

GRID = Grid(5, 4)


@pytest.fixture
def measures() -> torch.Tensor:
    return weights(7, 20)


def test_the_entries_are_divergences(measures, back_end):
    D = pairwise(measures, GRID, 0.05, tol=1e-8)
    rows, columns = (index.flatten() for index in torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij"))
    expected = sinkhorn_divergence(Problem(measures[rows], measures[columns], GRID, 0.05), tol=1e-8)
    assert_close(D.flatten(), expected, 1e-9)
    assert torch.equal(D, D.T)
    assert bool((D.diagonal() == 0).all())
    values = pairwise(measures, GRID, 0.05, tol=1e-8, debiased=False)
    expected = ot_value(Problem(measures[rows], measures[columns], GRID, 0.05), tol=1e-8)
    assert_close(values.flatten(), expected, 1e-9)


def test_clouds_of_their_own():
    x, w = torch.rand(5, 8, 3), weights(5, 8)
    D = pairwise(w, Points(x, None, "euclidean"), 0.1, tol=1e-8)
    for i, j in ((0, 1), (3, 4), (1, 4)):
        alone = sinkhorn_divergence(Problem(w[i], w[j], Points(x[i], x[j], "euclidean"), 0.1), tol=1e-8)
        assert_close(D[i, j], alone, 1e-9)


def test_equal_measures_are_not_negative_apart():
    same = weights(20).expand(4, 20).contiguous()
    assert bool((pairwise(same, GRID, 0.01) >= 0).all())
    assert float(pairwise(same, GRID, 0.01).max()) < 1e-6


def test_starts(measures):
    class Zeros:
        calls = 0

        def predict(self, problem: Problem) -> DualPotentials:
            Zeros.calls += 1
            return DualPotentials(torch.zeros_like(problem.a), torch.zeros_like(problem.b))

    assert_close(pairwise(measures, GRID, 0.05, init=Zeros()), pairwise(measures, GRID, 0.05), 1e-6)
    assert Zeros.calls > 0


def test_a_file_goes_on(measures, tmp_path, monkeypatch):
    """A run that was cut off is finished by the next one; what was done is not solved again."""
    import sys  # noqa: PLC0415

    module = sys.modules["metaot.losses.pairwise"]
    path = tmp_path / "matrix.npz"
    expected = pairwise(measures, GRID, 0.05)
    monkeypatch.setattr(module, "_NUMBERS", 60)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    solve, calls = module.solve, []

    def cut_off(problem, **settings):
        calls.append(len(problem.a))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return solve(problem, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(module, "solve", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pairwise(measures, GRID, 0.05, file=path)
        calls.clear()
        calls.extend([0] * 10)
        assert_close(pairwise(measures, GRID, 0.05, file=path), expected)
        assert sum(calls) == 7 + 21 - 9
        assert_close(pairwise(measures, GRID, 0.05, file=path), expected)
        assert sum(calls) == 7 + 21 - 9 + 7
    with pytest.raises(ValueError, match="other measures or settings"):
        pairwise(measures, GRID, 0.06, file=path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no file of pairwise"):
        pairwise(measures, GRID, 0.05, file=path)
    with pytest.raises(ValueError, match=r"\.npz"):
        pairwise(measures, GRID, 0.05, file=tmp_path / "matrix.txt")


def test_a_bar(measures, capsys):
    pairwise(measures, GRID, 0.05, progress=True)
    assert "21/21" in capsys.readouterr().err
    pairwise(measures, GRID, 0.05)
    assert capsys.readouterr().err == ""


def test_bad_input(measures):
    with pytest.raises(ValueError, match="sum to one"):
        pairwise(2 * measures, GRID, 0.05)
    with pytest.raises(ValueError, match="do not fit"):
        pairwise(measures, Grid(4, 4), 0.05)
    with pytest.raises(ValueError, match=r"\(N, 20\)"):
        pairwise(measures[0], GRID, 0.05)
    with pytest.raises(ValueError, match="one set of atoms"):
        pairwise(measures, Points(torch.rand(20, 2), torch.rand(3, 2)), 0.05)
    with pytest.raises(ValueError, match="both sides"):
        pairwise(measures, Points(torch.rand(20, 2), torch.rand(20, 2)), 0.05)
    with pytest.raises(TypeError, match="geometry"):
        pairwise(measures, "grid", 0.05)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="eps"):
        pairwise(measures, GRID, "0.05")  # type: ignore[arg-type]
    assert pairwise_function(measures[:1], GRID, 0.05).shape == (1, 1)
