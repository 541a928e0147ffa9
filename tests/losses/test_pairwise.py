"""Distance matrices: right entries on shared atoms and on clouds, from any start; files; bad input."""

import pickle
import sys

import numpy as np
import pytest
import torch
from strategies import assert_close, weights

from metaot import DualPotentials, Grid, Points, Problem, core, ot_value
from metaot.losses import PairDivergences, pairwise, sinkhorn_divergence

landmarks_module, pairwise_module = (sys.modules[f"metaot.losses.{name}"] for name in ("landmarks", "pairwise"))

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


def test_landmarks_give_better_starts(monkeypatch):
    """What the first rows teach saves steps in the others, and moves no entry, whoever makes the steps."""
    steps, call = [], core.PairSolver.__call__

    def counted(self, *arguments, **settings):
        found = call(self, *arguments, **settings)
        steps.append(found.steps.sum())
        return found

    monkeypatch.setattr(core.PairSolver, "__call__", counted)
    x = torch.linspace(0, 1, 8)
    middle, width = torch.rand(2, 72, 2)
    first, second = (((x - middle[:, k, None]) ** 2 / (0.02 + 0.05 * width[:, k, None])) for k in (0, 1))
    measures = torch.exp(-first[:, :, None] - second[:, None]).flatten(1)
    measures = measures / measures.sum(-1, keepdim=True)
    D = pairwise(measures, Grid(8, 8), 0.02, landmarks=32)
    taught = sum(steps)
    steps.clear()
    assert_close(D, pairwise(measures, Grid(8, 8), 0.02, landmarks=0), 1e-6)
    assert taught < 0.75 * sum(steps)


def test_landmarks_without_compiled_code(measures, monkeypatch):
    expected = pairwise(measures, GRID, 0.05, tol=1e-8)
    monkeypatch.setattr(landmarks_module, "_GROUP", 2)
    assert_close(pairwise(measures, GRID, 0.05, tol=1e-8, landmarks=4), expected, 1e-9)
    monkeypatch.setattr(core, "COMPILED", False)
    assert_close(pairwise(measures, GRID, 0.05, tol=1e-8, landmarks=4), expected, 1e-9)


def test_hard_pairs_go_to_solve(measures, monkeypatch):
    expected = pairwise(measures, GRID, 0.01, tol=1e-8)
    monkeypatch.setattr(pairwise_module, "SINKHORN_FIRST", 2)
    monkeypatch.setattr(landmarks_module, "_GROUP", 2)
    assert_close(pairwise(measures, GRID, 0.01, tol=1e-8, landmarks=4), expected, 1e-9)


def test_some_pairs(measures):
    D = pairwise(measures, GRID, 0.05, tol=1e-8)
    some = PairDivergences(measures, GRID, 0.05, tol=1e-8)
    some = pickle.loads(pickle.dumps(some))
    assert_close(some([0, 5, 2], torch.tensor([3, 1, 2])), D[[0, 5, 2], [3, 1, 2]], 1e-9)
    assert some([], []).shape == (0,)
    with pytest.raises(ValueError, match=r"0 to 6, got target\[0\] = 7"):
        some([0], [7])
    for wrong in ([0.5], [[0]], 0, np.array([0.0]), [torch.nan]):
        with pytest.raises(ValueError, match="source must be a row of whole numbers, got"):
            some(wrong, [1])
    for wrong in (None, "a", [2**70]):
        with pytest.raises(TypeError, match="source must be a row of whole numbers, got"):
            some(wrong, [1])


def test_a_file_goes_on(measures, tmp_path, monkeypatch):
    """A run that was cut off in a row is finished by the next one; what was done is not solved again."""
    path = tmp_path / "matrix.npz"
    expected = pairwise(measures, GRID, 0.05)
    monkeypatch.setattr(pairwise_module, "_NUMBERS", 60)
    monkeypatch.setattr(landmarks_module, "_GROUP", 1)
    solved, calls = PairDivergences._solved, []

    def cut_off(self, i, *arguments, **settings):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(len(i))
        return solved(self, i, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(PairDivergences, "_solved", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pairwise(measures, GRID, 0.05, file=path, landmarks=3)
        done = sum(calls)
        assert 0 < done < 21
        calls[:] = [0] * 5
        assert_close(pairwise(measures, GRID, 0.05, file=path, landmarks=3), expected, 1e-6)
        assert sum(calls) == 21 - done
        assert_close(pairwise(measures, GRID, 0.05, file=path), expected, 1e-6)
        assert sum(calls) == 21 - done
    with pytest.raises(ValueError, match="other measures or settings"):
        pairwise(measures, GRID, 0.06, file=path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="no file of pairwise"):
        pairwise(measures, GRID, 0.05, file=path)
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
    with pytest.raises(ValueError, match=r"^measures must sum to one, got sum measures\[0\] = 2"):
        pairwise(2 * measures, GRID, 0.05)
    with pytest.raises(ValueError, match=r"measures must have the shape \(N, 16\) on Grid\(4, 4\)"):
        pairwise(measures, Grid(4, 4), 0.05)
    with pytest.raises(ValueError, match=r"measures\[0\] has the shape \(4, 5\), measures\[1\] has \(5, 4\)"):
        pairwise([np.full((4, 5), 0.05), np.full((5, 4), 0.05)], GRID, 0.05)
    with pytest.raises(TypeError, match="file must be a name"):
        pairwise(measures, GRID, 0.05, file=3)  # type: ignore[arg-type]
    assert_close(pairwise(measures, GRID, np.float32(0.5)), pairwise(measures, GRID, 0.5), 1e-12)
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
    assert pairwise(measures[:1], GRID, 0.05).shape == (1, 1)
