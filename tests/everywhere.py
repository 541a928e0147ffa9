"""Every test: CPU, float64, one thread, a fixed seed."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from strategies import unchecked

from metaot import core

settings.register_profile("metaot", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("metaot")
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what tests make, not at the modules again each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(0)  # torch.manual_seed also notes the stack for each kind of accelerator


@pytest.fixture(params=["compiled", "torch"])
def back_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Solve by compiled code, then by torch as where there was no compiler, in the time that users see."""
    if request.param == "compiled" and not core.COMPILED:
        pytest.skip("not compiled")
    monkeypatch.setattr(core, "COMPILED", request.param == "compiled")
    with unchecked():
        yield request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
