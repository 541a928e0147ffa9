"""Every test: CPU, float64, one thread, a fixed seed."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("metaot", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("metaot")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
