"""The user's own problems: what is written is what is read, and bad arrays write nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metaot.data import ProblemFolder, write_problems
from metaot.geometry import Dense, Points

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


@pytest.mark.parametrize(
    ("change", "words"),
    [
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
