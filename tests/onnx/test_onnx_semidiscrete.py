"""A data set with its potential as a file: the same scores as in torch, without torch."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import metaot
from metaot.checkpoint import save
from metaot.maps import Normal
from metaot.onnx.export import export


@pytest.mark.parametrize(
    ("cost", "eps", "dtype"),
    [("sqeuclidean", 0.0, torch.float32), ("sqeuclidean", 0.5, torch.float64), ("euclidean", 0.5, torch.float64),
     ("dot", 0.5, torch.float32), ("cosine", 0.1, torch.float64)],
)  # fmt: skip
def test_the_file_does_what_torch_does(cost: str, eps: float, dtype: torch.dtype, tmp_path: Path) -> None:
    y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).to(dtype) + 2
    semi = metaot.SemiDiscrete(y, None, cost, eps).fit(Normal(3), progress=False)
    save(semi, tmp_path)
    assert torch.equal(metaot.load(tmp_path).g, semi.g)
    words = export(metaot.load(tmp_path), tmp_path, tmp_path / "set.onnx")
    assert "differs from torch by" in words
    model = pickle.loads(pickle.dumps(metaot.load(tmp_path / "set.onnx")))
    assert isinstance(model, metaot.OnnxSemiDiscrete)
    x = torch.randn(100, 3, dtype=dtype)
    assert np.allclose(model.potential(x.numpy()), semi.potential(x), rtol=1e-4, atol=1e-5)
    assert np.allclose(model.y, y)
    if eps == 0:
        assert (model.assign(x) == semi.assign(x).numpy()).mean() > 0.98
        assert np.allclose(model.map(x[:5]), semi.map(x[:5]))
        return
    counts = np.bincount(model.assign(x[:1].expand(4000, -1), np.random.default_rng(0)), minlength=40) / 4000
    assert np.abs(counts - semi.conditional(x[:1])[0].numpy()).max() < 0.05
    if cost != "cosine":
        assert np.allclose(model.map(x), semi.conditional(x) @ y, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"x must have 3 numbers"):
        model.assign(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"another kind of model: metaot\.OnnxMap opens it|is damaged"):
        metaot.OnnxModel(tmp_path / "set.onnx")
