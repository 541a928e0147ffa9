"""Points on the Earth as a sphere: degrees to unit vectors and back, radians to kilometres."""

import torch
from jaxtyping import Float
from torch import Tensor

KILOMETRES = 6371.0088
"""The mean radius of the Earth: an angle in radians times it is a length."""


def unit_vectors(
    latitude: Float[Tensor, "*shape"], longitude: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape 3"]:
    """Return points of the unit sphere from degrees north and east."""
    latitude, longitude = torch.deg2rad(latitude), torch.deg2rad(longitude)
    ring = latitude.cos()
    return torch.stack([ring * longitude.cos(), ring * longitude.sin(), latitude.sin()], -1)


def degrees(x: Float[Tensor, "*shape 3"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return latitude and longitude in degrees north and east, the longitude in [-180, 180]."""
    latitude = torch.atan2(x[..., 2], x[..., :2].norm(dim=-1))
    return torch.rad2deg(latitude), torch.rad2deg(torch.atan2(x[..., 1], x[..., 0]))
