"""The shipped palette model on pictures that it has never seen."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metaot
from metaot.amortize.maps import BuresStart
from metaot.data import Paintings
from metaot.objectives import brenier_value
from metaot.onnx.maps import map_beside
from metaot.tools.value import half_squared_distance

MODEL = Path(__file__).parents[1] / "checkpoints" / "palette"
DATA = Path(os.environ.get("METAOT_DATA", "nowhere"))
needs_paintings = pytest.mark.skipif(not (DATA / "paintings").is_dir(), reason="no paintings")


@needs_paintings
def test_held_out_palettes_come_close_to_the_optimum_in_one_pass() -> None:
    pytest.importorskip("PIL")
    pairs = replace(Paintings().split("test"), batch=12, samples=400)
    problem = pairs.sample(torch.Generator().manual_seed(3))
    distance = half_squared_distance(problem)
    model, linear = metaot.load(MODEL), BuresStart()
    found, before = (
        brenier_value(problem, start.predict(problem), tol=1e-3) / distance for start in (model, linear)
    )
    assert found.mean() > 0.92
    assert 1 - found.mean() < 0.5 * (1 - before.mean())
    assert found.max() <= 1.005


def test_it_reads_any_three_dimensional_clouds() -> None:
    model = metaot.load(MODEL)
    x, y = torch.rand(2, 100, 3)
    problem = metaot.SampleProblem(x, y.square())
    pair = model.predict(problem)
    assert pair.push(x).isfinite().all()
    assert (pair.pull(pair.push(x)) - x).abs().mean() < 0.05


def test_its_network_as_onnx_is_the_same() -> None:
    x, y = torch.rand(2, 400, 3).float()
    expected = metaot.load(MODEL).stages(metaot.SampleProblem(x, y**2))[-1]
    network = map_beside(MODEL)
    assert network is not None
    found = network.predict(x.numpy(), (y**2).numpy())
    torch.testing.assert_close(torch.from_numpy(found.push(x.numpy())), expected.push(x), atol=3e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(found.pull(y.numpy())), expected.pull(y), atol=3e-5, rtol=0)
