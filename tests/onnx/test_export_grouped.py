"""The network of few suppliers and many customers exports; the Newton steps behind it do not."""

import numpy as np
import pytest
import torch

from metaot.amortize import AmortizedPotential
from metaot.data import Sphere
from metaot.models import GroupedPotential, single
from metaot.onnx import OnnxModel

pytest.importorskip("onnxscript")

from metaot.onnx.export import prediction_model

PROBLEMS = Sphere(batch=5, suppliers=20, customers=900, world="synthetic", eps=(1e-3, 1e-3)).split("test")


def predictor(passes: int) -> AmortizedPotential:
    torch.manual_seed(0)
    settings = {"groups": 32, "fine": 64, "width": 16, "hidden": 16, "depth": 1, "demand": 4, "passes": passes}
    model = single(GroupedPotential.for_geometry(PROBLEMS.geometry, (1e-3, 1e-3), **settings))
    return AmortizedPotential(model.eval().requires_grad_(False), PROBLEMS.geometry, (1e-3, 1e-3))


def test_the_network_alone_says_the_same_also_where_suppliers_have_nothing() -> None:
    model, problem = predictor(0), PROBLEMS.sample(torch.Generator().manual_seed(0))
    exported = OnnxModel.from_bytes(prediction_model(model, {"model": {}}))
    expected, found = model.predict(problem), exported.predict(problem)
    assert np.abs(expected.f.numpy() - np.asarray(found.f)).max() < 1e-5
    assert np.abs(expected.g.numpy() - np.asarray(found.g)).max() < 1e-5
    one = exported.solve(problem.a[0].numpy(), problem.b[0].numpy(), eps=1e-3, tol=1e-9)
    assert np.all(one.error <= 1e-9)


def test_newton_steps_inside_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="--passes 0"):
        prediction_model(predictor(3), {"model": {}})
