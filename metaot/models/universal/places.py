"""Where measures live: the sums over atoms that a network of functions asks for, on grids and on clouds."""

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Geometry, Grid, Points
from metaot.models.universal.frame import Moments

FAR = 2.0
"""Distances are compressed so that infinity is at FAR widths: what is far away is seen coarsely."""

Bases = tuple[Float[Tensor, "batch modes _"], Float[Tensor, "batch modes _"]]
"""The cosines of both coordinates, at each coordinate of a grid or at each atom of a cloud."""


class Place(ABC):
    """One side of a geometry on the plane."""

    @abstractmethod
    def moments(self, weights: Float[Tensor, "batch n"]) -> Moments:
        """Return mean and covariance."""

    @abstractmethod
    def analysis(self, bases: Bases, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch modes modes"]:
        """Return the sums of weights times cosines."""

    @abstractmethod
    def synthesis(
        self, bases: Bases, coefficients: Float[Tensor, "batch modes modes"]
    ) -> Float[Tensor, "batch n"]:
        """Return the function of these coefficients at the atoms."""

    @abstractmethod
    def quadratic(
        self, mean: tuple[Tensor, Tensor], slope: tuple[Tensor, Tensor], F: tuple[Tensor, Tensor, Tensor]
    ) -> Float[Tensor, "batch n"]:
        """Return |z|^2 - 2 z . slope - z F z at the atoms, with z from the mean."""

    @abstractmethod
    def centred(self, mean: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the coordinates from the mean, each batch n."""

    def bases(self, mean: tuple[Tensor, Tensor], width: Float[Tensor, "batch"], modes: int) -> Bases:
        """Return the cosines in the frame of a measure."""
        x, y = self.centred(mean)
        return cosines(x / width[:, None], modes), cosines(y / width[:, None], modes)


@final
class GridPlace(Place):
    """A grid with two axes: everything axis by axis."""

    def __init__(self, axes: tuple[Float[Tensor, "height"], Float[Tensor, "width"]]) -> None:
        self.axes = axes

    def moments(self, weights: Float[Tensor, "batch n"]) -> Moments:
        image = self._image(weights)
        marginals = image.sum(2), image.sum(1)
        mean = marginals[0] @ self.axes[0], marginals[1] @ self.axes[1]
        x, y = self.centred(mean)
        xx, yy = (marginals[0] * x * x).sum(1), (marginals[1] * y * y).sum(1)
        xy = ((image @ y[:, :, None])[:, :, 0] * x).sum(1)
        return Moments(mean, (xx, yy, xy))

    def analysis(self, bases: Bases, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch modes modes"]:
        return bases[0] @ self._image(weights) @ bases[1].mT

    def synthesis(
        self, bases: Bases, coefficients: Float[Tensor, "batch modes modes"]
    ) -> Float[Tensor, "batch n"]:
        return (bases[0].mT @ coefficients @ bases[1]).flatten(1)

    def quadratic(
        self, mean: tuple[Tensor, Tensor], slope: tuple[Tensor, Tensor], F: tuple[Tensor, Tensor, Tensor]
    ) -> Float[Tensor, "batch n"]:
        x, y = self.centred(mean)
        rows, columns, mixed = _parts(x, y, slope, F)
        return (rows[:, :, None] + columns[:, None, :] - mixed[:, :, None] * y[:, None, :]).flatten(1)

    def _image(self, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch height width"]:
        return weights.reshape(-1, self.axes[0].shape[0], self.axes[1].shape[0])

    def centred(self, mean: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.axes[0] - mean[0][:, None], self.axes[1] - mean[1][:, None]


@final
class CloudPlace(Place):
    """Atoms anywhere on the plane, the same for the batch (1 n) or of each instance."""

    def __init__(self, x: Float[Tensor, "clouds n"], y: Float[Tensor, "clouds n"]) -> None:
        self.x, self.y = x, y

    def moments(self, weights: Float[Tensor, "batch n"]) -> Moments:
        mean = (weights * self.x).sum(1), (weights * self.y).sum(1)
        x, y = self.centred(mean)
        return Moments(mean, ((weights * x * x).sum(1), (weights * y * y).sum(1), (weights * x * y).sum(1)))

    def analysis(self, bases: Bases, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch modes modes"]:
        return (bases[0] * weights[:, None]) @ bases[1].mT

    def synthesis(
        self, bases: Bases, coefficients: Float[Tensor, "batch modes modes"]
    ) -> Float[Tensor, "batch n"]:
        return ((coefficients.mT @ bases[0]) * bases[1]).sum(1)

    def quadratic(
        self, mean: tuple[Tensor, Tensor], slope: tuple[Tensor, Tensor], F: tuple[Tensor, Tensor, Tensor]
    ) -> Float[Tensor, "batch n"]:
        x, y = self.centred(mean)
        rows, columns, mixed = _parts(x, y, slope, F)
        return rows + columns - mixed * y

    def centred(self, mean: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.x - mean[0][:, None], self.y - mean[1][:, None]


def _parts(
    x: Tensor, y: Tensor, slope: tuple[Tensor, Tensor], F: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what depends on x alone, on y alone, and the factor of y in what depends on both."""
    xx, yy, xy = (value[:, None] for value in F)
    rows = x * ((1 - xx) * x - 2 * slope[0][:, None])
    columns = y * ((1 - yy) * y - 2 * slope[1][:, None])
    return rows, columns, 2 * xy * x


def cosines(u: Float[Tensor, "batch n"], modes: int) -> Float[Tensor, "batch modes n"]:
    """Return cos(pi k (w + FAR) / (2 FAR)) of w = u / sqrt(1 + (u / FAR)^2), for k below `modes`.

    A reflection of u changes the sign where k is odd.
    """
    w = u * (1 + (u / FAR).square()).rsqrt()
    k = torch.arange(modes, dtype=u.dtype, device=u.device)
    return torch.cos((w + FAR)[:, None] * (math.pi / (2 * FAR) * k[:, None]))


def places(geometry: Geometry) -> tuple[Place, Place]:
    """Return both sides of a geometry; ValueError for others than the plane with the squared distance."""
    require_plane(geometry)
    if isinstance(geometry, Grid):
        rows, columns = (axis.float() for axis in geometry.axes)
        place = GridPlace((rows, columns))
        return place, place
    assert isinstance(geometry, Points)
    return _cloud(geometry.x), _cloud(geometry.y)


def require_plane(geometry: Geometry) -> None:
    """Raise ValueError for others than the plane with the squared distance."""
    image = isinstance(geometry, Grid) and len(geometry.sizes) == 2
    cloud = isinstance(geometry, Points) and geometry.x.shape[-1] == 2
    if geometry.cost_name != "sqeuclidean" or not (image or cloud):
        raise ValueError(
            "the universal model is for images and planar points with the cost 'sqeuclidean', such as "
            f"Grid(28, 28) or Points(x, y) with d = 2; got {geometry}"
        )


def _cloud(atoms: Tensor) -> CloudPlace:
    x, y = atoms.float().reshape(-1, *atoms.shape[-2:]).unbind(-1)
    return CloudPlace(x, y)
