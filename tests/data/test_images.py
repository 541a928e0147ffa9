"""Images as measures."""

import pytest
import torch

from metaot.data import ImagePairs


def test_a_blank_image_is_named() -> None:
    images = torch.ones(3, 4, 4, dtype=torch.uint8)
    images[1] = 0
    with pytest.raises(ValueError, match="image 1 has no mass"):
        ImagePairs(2, (0.1, 0.1), images)


def test_eps_is_log_uniform_in_its_range(generator: torch.Generator) -> None:
    pairs = ImagePairs(4000, (1e-3, 1e-1), torch.ones(2, 2, 2, dtype=torch.uint8))
    logs = pairs.sample(generator).eps.log10()
    assert -3 <= logs.min() < -2.99
    assert -1.01 < logs.max() <= -1
    assert abs(logs.mean() + 2) < 0.03
