"""The user's own problems: what is written is what is read, and bad arrays write nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import assert_close

import metaot
from metaot.data import ProblemFolder, ProblemSet, write_problems
from metaot.geometry import Dense, Points
from metaot.potentials import plan

RNG = np.random.default_rng(0)


def weights(count: int, n: int) -> np.ndarray:
    return RNG.dirichlet(np.ones(n), count)


def test_cost_matrix_round_trip(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, C = weights(40, 5), weights(40, 7), RNG.random((5, 7))
    write_problems(tmp_path / "set", a, b, C=C, eps=0.1)
    assert capsys.readouterr() == ("", "")
    train, test = (ProblemFolder(str(tmp_path / "set"), batch=9).split(name) for name in ("train", "test"))
    assert isinstance(train.geometry, Dense)
    assert torch.equal(train.geometry.C, torch.as_tensor(C))
    assert (len(train.a), len(test.a)) == (36, 2)
    assert torch.allclose(test.a, torch.as_tensor(a[19::20]), atol=1e-7)
    problem = train.sample(generator)
    assert problem.eps == 0.1
    assert problem.a.shape == (9, 5)


def test_pairs_stay_together_and_float32_weights_keep_their_mass(
    tmp_path: Path, generator: torch.Generator
) -> None:
    a, x = weights(40, 3000), RNG.random((3000, 1))
    write_problems(tmp_path / "set", a, a[:, ::-1], x=x, y=x, eps=(0.01, 1.0))
    problem = ProblemFolder(str(tmp_path / "set"), batch=16, exchanged=0.0).split("train").sample(generator)
    assert isinstance(problem.geometry, Points)
    torch.testing.assert_close(problem.a.flip(-1), problem.b, rtol=1e-14, atol=0.0)
    assert problem.eps.shape == (16,)
    assert (problem.a.sum(-1) - 1).abs().max() < 1e-14


def test_training_exchanges_targets_and_nothing_else_does(tmp_path: Path, generator: torch.Generator) -> None:
    a = weights(200, 4)
    source = ProblemFolder(str(write_problems(tmp_path / "set", a, a, C=RNG.random((4, 4)), eps=0.1)), batch=100)
    for name, least, most in (("train", 30, 70), ("validation", 0, 0), ("test", 0, 0)):
        problem = source.split(name).sample(generator)
        assert least <= int((problem.a != problem.b).any(-1).sum()) <= most
    with pytest.raises(ValueError, match=r"between 0 and 1, got 2\.0"):
        replace(source, exchanged=2.0)


def tolls(row: np.ndarray) -> np.ndarray:
    """Return distances on a line to a power, and a price that depends on the target."""
    x, y = np.linspace(0, 1, 5), np.linspace(0, 1, 7)
    return np.abs(x[:, None] - y) ** row[0] + row[1] * y


def with_nothing_allowed(row: np.ndarray) -> np.ndarray:
    return np.where(np.arange(5)[:, None] == 3, np.inf, tolls(row))


def matched(problems: ProblemSet, a: np.ndarray) -> tuple[metaot.Problem, list[int]]:
    """Return problems of a set, and the rows that they were written as."""
    problem = problems.sample(torch.Generator().manual_seed(0))
    rows = (problem.a[:, None] - torch.as_tensor(a)).abs().sum(-1).argmin(1)
    return problem, rows.tolist()


def test_a_matrix_for_each_problem_stays_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaot.data.problems._BLOCK", 100)  # in parts of two rows
    a, b, C = weights(40, 5), weights(40, 7), RNG.random((40, 5, 7)).astype(np.float32)
    C[::3, 2, 4] = np.inf
    np.save(tmp_path / "C.npy", C)
    write_problems(tmp_path / "set", a, b, C=np.load(tmp_path / "C.npy", mmap_mode="r"), eps=0.1)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["card.json", "problems"]
    train, test = (ProblemFolder(str(tmp_path / "set"), batch=30).split(name) for name in ("train", "test"))
    assert train.geometry is None
    problem, rows = matched(train, a)
    assert_close(problem.b, torch.as_tensor(b[rows]), atol=1e-6)
    assert torch.equal(problem.geometry.C, torch.as_tensor(C[rows]).double())
    solution = metaot.solve(problem)
    assert solution.converged.all()
    assert (plan(problem, solution.potentials)[problem.geometry.C.isinf()] == 0).all()
    assert {k % 20 for k in rows}.isdisjoint({18, 19})
    assert set(matched(test, a)[1]) == {19, 39}


def test_parameters_and_a_function_are_a_matrix_for_each_problem(tmp_path: Path) -> None:
    a, b, parameters = weights(40, 5), weights(40, 7), RNG.random((40, 2)) + 1
    write_problems(tmp_path / "set", a, b, parameters=parameters, cost=tolls, eps=(0.1, 0.2))
    problem, rows = matched(ProblemFolder(str(tmp_path / "set"), batch=9).split("validation"), a)
    expected = np.stack([tolls(parameters[k]) for k in rows])
    assert torch.equal(problem.geometry.C, torch.as_tensor(expected))
    card = tmp_path / "set" / "card.json"
    card.write_text(card.read_text().replace(":tolls", ":gone"))
    with pytest.raises(ImportError, match=r"test_problems:gone, which is not found .*: add .* to PYTHONPATH"):
        ProblemFolder(str(tmp_path / "set")).split("test")


def spoiled(value: float, *place: int) -> np.ndarray:
    """Return matrices with another value in one place."""
    C = np.ones((20, 5, 7))
    C[place] = value
    return C


OWN = {"C": None, "parameters": np.ones((20, 2)), "cost": tolls}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"C": np.zeros((19, 5, 7))}, r"C must have the shape .* = \(20, 5, 7\).*; got \(19, 5, 7\)"),
        ({"C": np.zeros((20, 7, 5))}, r"\(20, 5, 7\).*; got \(20, 7, 5\)"),
        ({"C": np.zeros(35)}, r"\(5, 7\), one matrix for all .* \(20, 5, 7\), one for each, got \(35,\)"),
        ({"C": spoiled(np.nan, 3, 1, 2)}, r"C\[3\] must be finite, or \+inf .* got C\[3\]\[1, 2\] = nan"),
        ({"C": spoiled(np.inf, 4, 2)}, r"C\[4\] must have a finite cost in each row, got only \+inf in row 2"),
        ({"C": spoiled(np.inf, 4, slice(None), 6)}, "in each column, got only .inf in column 6"),
        ({"C": spoiled(1e39, 5, 0, 0)}, r"C\[5\] must fit into float32, got 1e\+39"),
        ({**OWN, "parameters": np.ones((19, 2))}, r"\(count, p\), one row for each of the 20 .*\(19, 2\)"),
        ({**OWN, "parameters": np.full((20, 2), np.nan)}, "parameters must be finite.* in row 0"),
        ({**OWN, "cost": "sqeuclidean"}, "need a function `cost`.*got 'sqeuclidean'"),
        ({**OWN, "cost": lambda row: 1 + tolls(row)}, "got a lambda: define it in a file"),
        ({**OWN, "cost": with_nothing_allowed}, r"with_nothing_allowed\(\[1. 1.\]\) must have .* row 3"),
        ({**OWN, "cost": np.atleast_2d}, r"shape \(n, m\) = \(5, 7\), got \(1, 2\)"),
        ({"cost": tolls}, "needs `parameters`"),
        ({"a": -weights(20, 5)}, r"must not be negative.*\[0, 0\]"),
        ({"b": weights(20, 6)}, r"\(5, 6\).*\(5, 7\)"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"eps": (1.0, 0.1)}, "eps must be a number or"),
        ({"C": None}, "C, or x and y"),
        ({"x": np.zeros((5, 1))}, "C, or x and y"),
        ({"a": weights(3, 5)}, "count >= 20"),
    ],
)
def test_bad_arrays_write_nothing(tmp_path: Path, change: dict, words: str) -> None:
    arrays = {"a": weights(20, 5), "b": weights(20, 7), "C": RNG.random((5, 7)), "eps": 0.1, **change}
    with pytest.raises(ValueError, match=words):
        write_problems(tmp_path / "set", **arrays)
    assert not (tmp_path / "set").exists()


def test_an_existing_folder_is_kept_and_a_missing_one_named(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        write_problems(tmp_path, weights(20, 5), weights(20, 5), C=np.zeros((5, 5)), eps=0.1)
    with pytest.raises(FileNotFoundError, match="write_problems"):
        ProblemFolder().split("train")
