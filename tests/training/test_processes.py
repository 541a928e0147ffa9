"""Several processes train as one does with the whole batch, go on as one run, and end together."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_run import STEPS
from small import tiny
from strategies import assert_close
from torch import distributed, nn

import metaot
from metaot.checkpoint import read_card
from metaot.training import train
from metaot.training.processes import Processes, joined
from metaot.training.recipe import Recipe, Task

ROOT = Path(__file__).parents[2]


def task_of(recipe: Recipe) -> Task:
    return recipe.task(recipe, None, torch.device("cpu"))


@pytest.mark.parametrize("name", ["shapes", "planted", "populations"])
def test_shares_are_the_problems_of_a_step(name: str) -> None:
    problem = task_of(tiny(name, 1)).problem(3)
    assert Processes().share(problem) is problem
    shares = [Processes(number, 4).share(problem) for number in range(4)]
    fields = [field for field in ("a", "b", "x", "y", "old", "new", "force") if hasattr(problem, field)]
    assert len(fields) >= 2
    for field in fields:
        assert torch.equal(torch.cat([getattr(share, field) for share in shares]), getattr(problem, field))


def test_gradients_losses_and_ranges_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(nn.Module):
        of_data = ("seen",)

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.idle = nn.Linear(3, 1), nn.Linear(2, 2)
            self.register_buffer("seen", torch.tensor([torch.inf, 0.0]))

    whole, x = Network(), torch.rand(6, 3)
    parts = [deepcopy(whole) for _ in range(2)]

    def loss(model: Network, rows: torch.Tensor) -> torch.Tensor:
        model.seen.copy_(torch.stack([rows.min(), rows.max()]))
        made = model.layer(rows).square().mean()
        made.backward()
        return made

    expected = loss(whole, x)
    losses = [loss(model, rows) for model, rows in zip(parts, x.split(3), strict=True)]
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(distributed, "all_reduce", lambda values, how: sent.append(values.clone()))
    Processes(1, 2).average(deepcopy_with_gradients(parts[1]), losses[1])

    def reduce(values: torch.Tensor, how: object) -> None:
        other = sent.pop(0)
        values.copy_(values + other if how == distributed.ReduceOp.SUM else torch.maximum(values, other))

    monkeypatch.setattr(distributed, "all_reduce", reduce)
    mean = Processes(0, 2).average(parts[0], losses[0])
    assert sent == []
    assert_close(mean.double(), expected.detach().double(), 1e-6)
    assert_close(parts[0].layer.weight.grad.double(), whole.layer.weight.grad.double(), 1e-6)
    assert not parts[0].idle.weight.grad.any()
    assert torch.equal(parts[0].seen, whole.seen)


def deepcopy_with_gradients(model: nn.Module) -> nn.Module:
    copy = deepcopy(model)
    for new, old in zip(copy.parameters(), model.parameters(), strict=True):
        new.grad = None if old.grad is None else old.grad.clone()
    return copy


def test_a_batch_that_cannot_be_shared_is_named() -> None:
    Processes(0, 4).require_shares(12)
    with pytest.raises(ValueError, match=r"14 problems .* among 4 processes: .* multiple of 4, such as 16"):
        Processes(0, 4).require_shares(14)


def test_a_group_that_exists_is_used_and_one_process_trains_as_ever(tmp_path: Path) -> None:
    alone = joined(tiny("shapes", 1))
    assert (alone.is_first, alone.count, alone.any(True), alone.any(False)) == (True, 1, True, False)
    train(tiny("shapes", 2), tmp_path / "alone", progress=False)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        one = joined(tiny("shapes", 1))
        assert (one.is_first, one.count) == (True, 1)
        train(tiny("shapes", 2), tmp_path / "group", progress=False)
    finally:
        distributed.destroy_process_group()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "group"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_process_that_lost_another_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(values: torch.Tensor, how: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    with pytest.raises(RuntimeError, match=r"process 0 of 2 lost another one.* --resume"):
        Processes(0, 2).any(False)


def run_by(count: int, *arguments: str) -> str:
    """Run `shared_run.py` in some processes, as torchrun does, or in one without it; return what is printed."""
    script = Path(__file__).with_name("shared_run.py")
    started = [] if count == 1 else ["-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *started, str(script), *arguments]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    names = ["shapes", "planted", "universal"]
    for count, folder in ((1, "one"), (2, "two")):
        (tmp_path / folder).mkdir()
        run_by(count, "train", str(tmp_path / folder), *names)
    for name in names:
        one, two, other = (
            torch.tensor(json.loads((tmp_path / file).read_text()), dtype=torch.float64)
            for file in (f"one/{name}-0.json", f"two/{name}-0.json", f"two/{name}-1.json")
        )
        assert torch.equal(two, other)
        assert torch.equal(two[:STEPS], two[STEPS:])  # stopped and resumed
        assert ((one - two).abs() < 1e-6 * one.abs()).all()
        first, second, parts = (
            load_file(tmp_path / file / "model.safetensors")
            for file in (f"one/{name}", f"two/{name}", f"two/{name}-parts")
        )
        assert all(torch.equal(value, parts[key]) for key, value in second.items())
        if name == "planted":  # elsewhere a constant of the potential is free, and Adam follows its rounding
            assert all((value - second[key]).abs().max() < 1e-4 for key, value in first.items())
    problem = task_of(tiny("shapes", 1)).validation
    one, two = (metaot.load(tmp_path / each / "shapes").predict(problem) for each in ("one", "two"))
    assert_close(one.f - one.f.mean(-1, keepdim=True), two.f - two.f.mean(-1, keepdim=True), 1e-6)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_at_the_same_step(tmp_path: Path) -> None:
    assert run_by(2, "stop", str(tmp_path / "run")).split() == ["1", "1"]
    assert read_card(tmp_path / "run")["step"] == 1
