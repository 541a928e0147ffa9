"""What a Gromov-Wasserstein problem is between: two spaces, weights, and features beside them."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike, as_number
from metaot.geometry import Dense, Geometry, Points
from metaot.geometry.base import replaced
from metaot.geometry.checks import given, masses, require_finite
from metaot.maps.distortion import CloudDistortion, Distortion, MatrixDistortion

_LANDMARKS, _AXES, _SIGNED = 200, 8, 3
"""Atoms whose distances place all others; the most axes of such clouds; axes whose signs are tried."""

_EQUAL = 1e-6
"""How far from equal weights may be, relatively, where permutations are plans."""

_TAKEN = "a cloud n d, or a Geometry on one support: Points(x, cost=...) or Dense(D) of distances"


@final
@dataclass(frozen=True)
class Spaces:
    """Two spaces: clouds with squared distances or inner products, or matrices."""

    a: Float[Tensor, "n"]
    b: Float[Tensor, "m"]
    source: Geometry
    target: Geometry
    features: Geometry | None
    alpha: float

    @classmethod
    def of(
        cls,
        spaces: tuple[object, object],
        weights: tuple[ArrayLike | None, ArrayLike | None],
        features: object,
        alpha: float | None,
    ) -> "Spaces":
        """Read what came in; errors name the first thing that is wrong."""
        source, target = _space("x", spaces[0]), _space("y", spaces[1])
        tensors = [next(iter(space.tensors().values())) for space in (source, target)]
        like = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
        if tensors[0].device != tensors[1].device:
            raise ValueError(f"x is on {tensors[0].device}, y is on {tensors[1].device}: bring them together")
        one = tensors[0].new_zeros((), dtype=like)
        a, b = (
            _masses(name, w, space, one) for name, w, space in zip("ab", weights, (source, target), strict=True)
        )
        beside, share = _features(features, (source.shape[0], target.shape[0]), alpha)
        found = Spaces(a, b, source.to(one), target.to(one), None if beside is None else beside.to(one), share)
        for name, space in (("x", found.source), ("y", found.target)):
            if not _is_cloud(space):
                _require_symmetric(name, space.cost_rows(slice(None)))
        return found

    @property
    def are_clouds(self) -> bool:
        """Whether the distortion needs the moments of clouds only."""
        named = (self.source.cost_name, self.target.cost_name)
        return named in (("sqeuclidean", "sqeuclidean"), ("dot", "dot"))

    @cached_property
    def distortion(self) -> Distortion:
        """The distortion of plans between them."""
        spaces, rows = (self.source, self.target), slice(None)
        found: Distortion
        if self.are_clouds:
            x, y = (space.points[0] for space in spaces)  # type: ignore[index]
            squared = self.source.cost_name == "sqeuclidean"
            clouds = (CloudDistortion.of_squares if squared else CloudDistortion.of_products)(self.a, self.b, x, y)
            if self.features is not None and self.features.cost_name == "sqeuclidean":
                return clouds.with_features(*self.features.points, self.alpha)  # type: ignore[misc]
            found = clouds
        else:
            D, E = (space.cost_rows(rows) for space in spaces)
            found = MatrixDistortion.of(self.a, self.b, D, E)
        return found if self.features is None else found.with_costs(self.features.cost_rows(rows), self.alpha)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of atoms."""
        return len(self.a), len(self.b)

    @property
    def may_be_permuted(self) -> bool:
        """Whether some plans are permutations: between as many atoms of equal weights."""
        n, m = self.shape
        return n == m and all(bool((w * n - 1).abs().amax() <= _EQUAL) for w in (self.a, self.b))

    @cached_property
    def scale(self) -> float:
        """How much the slope of the distortion differs between pairs of atoms, about."""
        spread = self.alpha * self.distortion.variance.clamp_min(0).sqrt()
        if self.features is not None:
            spread = spread + (1 - self.alpha) * self.features.std_cost(self.a, self.b)
        return max(float(spread), float(torch.finfo(self.a.dtype).tiny) ** 0.5)

    def part(self, rows: Int[Tensor, "k"], columns: Int[Tensor, "l"]) -> "Spaces":
        """Return some of the atoms."""
        a, b = self.a[rows], self.b[columns]
        features = None if self.features is None else _cut(self.features, rows, columns)
        source, target = _cut(self.source, rows, rows), _cut(self.target, columns, columns)
        return Spaces(a / a.sum(), b / b.sum(), source, target, features, self.alpha)

    def embedded(self) -> "Spaces":
        """Return clouds whose squared distances are about what the matrices say, with the same features."""
        sides = (self.source, self.a), (self.target, self.b)
        x, y = (_placed(space.cost_rows(slice(None)), weights) for space, weights in sides)
        return replace(self, source=Points(x), target=Points(y))

    def starts(self, count: int, generator: torch.Generator | None) -> Float[Tensor, "count d e"]:
        """Return moments to start from: of Gaussian plans for all signs of the first axes, then random ones.

        With covariances A and B, those of a plan are A^1/2 Q B^1/2, where no singular value of Q is above one.
        """
        clouds = self.distortion
        assert isinstance(clouds, CloudDistortion)
        (left, of_x), (right, of_y) = (_axes(w, z) for w, z in ((clouds.a, clouds.X), (clouds.b, clouds.Y)))
        rank = min(len(of_x), len(of_y))
        signed = min(rank, _SIGNED)
        signs = list(product((1.0, -1.0), repeat=signed))[:count]
        turns = left.new_ones(len(signs), rank)
        turns[:, :signed] = turns.new_tensor(signs)
        Q = left.new_zeros(count, len(of_x), len(of_y))
        Q[: len(signs), range(rank), range(rank)] = turns
        if count > len(signs):
            shape = (count - len(signs), *Q.shape[1:])
            random = torch.randn(shape, generator=generator, dtype=Q.dtype).to(Q.device)
            U, _, V = torch.linalg.svd(random, full_matrices=False)
            Q[len(signs) :] = U @ V
        return (left * of_x) @ Q @ (right * of_y).mT


def _masses(name: str, weights: ArrayLike | None, space: Geometry, like: Tensor) -> Float[Tensor, "n"]:
    """Return weights of a space, of mass one."""
    w = masses(name, weights, space.shape[0], like, space.sizes)
    if w.ndim != 1:
        raise ValueError(f"{name} must be one number for each atom, got the shape {tuple(w.shape)}")
    return w


def _cut(space: Geometry, rows: Int[Tensor, "k"], columns: Int[Tensor, "l"]) -> Geometry:
    """Return the space of some of the atoms."""
    if isinstance(space, Points):
        return replaced(space, x=space.x[rows], y=space.y[columns])
    return Dense.trusted(space.cost_rows(rows)[:, columns])


def _space(name: str, value: object) -> Geometry:
    """Return a space of one support."""
    if not isinstance(value, Geometry):
        cloud = given(name, value, _TAKEN).tensor
        if cloud.ndim != 2:
            raise ValueError(f"{name} must be {_TAKEN}, got the shape {tuple(cloud.shape)}")
        return Points(cloud)
    if value.batch_shape or value.shape[0] != value.shape[1]:
        raise ValueError(f"{name} must be {_TAKEN}, got {value!r}")
    points = value.points
    if points is not None and points[0] is not points[1] and not torch.equal(*points):
        raise ValueError(f"{name} must have one support, got two different clouds: take Points(x), without y")
    return value


def _features(features: object, shape: tuple[int, int], alpha: object) -> tuple[Geometry | None, float]:
    """Return the costs between features, and the share of the structure."""
    if features is None:
        if alpha is not None:
            raise ValueError(f"alpha is the share of the structure beside features, got {alpha} without features")
        return None, 1.0
    share = 0.5 if alpha is None else as_number("alpha", alpha)
    if not 0 < share <= 1:
        raise ValueError(f"alpha, the share of the structure, must be in (0, 1], got {share}")
    space = features if isinstance(features, Geometry) else Dense(features)  # type: ignore[arg-type]
    if space.shape != shape or space.batch_shape:
        words = f"a Geometry or matrix of costs between the atoms of x and y, {shape[0]} x {shape[1]}"
        raise ValueError(f"features must be {words}, got {space!r}")
    return space, share


def _is_cloud(space: Geometry) -> bool:
    return space.cost_name in ("sqeuclidean", "dot")


def _require_symmetric(name: str, D: Float[Tensor, "n n"]) -> None:
    require_finite(name, D)
    bad = (D - D.mT).abs() > 1e-6 * D.abs().max()
    if bad.any():
        i, j = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be symmetric, got {name}[{i}, {j}] = {float(D[i, j]):.6g} and "
            f"{name}[{j}, {i}] = {float(D[j, i]):.6g}: take (D + D.T) / 2"
        )


def _axes(weights: Float[Tensor, "n"], x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d"]]:
    """Return the axes of a cloud and its standard deviations along them, the longest first."""
    centred = x - weights @ x
    values, vectors = torch.linalg.eigh(centred.mT @ (weights[:, None] * centred))
    return vectors.flip(-1), values.flip(-1).clamp_min(0).sqrt()


def _placed(D: Float[Tensor, "n n"], weights: Float[Tensor, "n"]) -> Float[Tensor, "n k"]:
    """Return points with squared distances about D: classical scaling of some atoms, which place the others.

    De Silva and Tenenbaum, "Sparse multidimensional scaling using landmark points", 2004.
    """
    chosen = weights.nonzero()[:, 0]
    chosen = chosen[
        torch.linspace(0, len(chosen) - 1, min(_LANDMARKS, len(chosen)), device=D.device).round().long()
    ]
    among = D[chosen][:, chosen]
    means = among.mean(0)
    gram = -(among - means - means[:, None] + means.mean()) / 2
    values, vectors = torch.linalg.eigh(gram)
    rank = min(_AXES, len(chosen))
    values, vectors = values.flip(-1)[:rank], vectors.flip(-1)[:, :rank]
    kept = values > 1e-9 * values[0].clamp_min(1e-300)
    kept[0] = True
    values, vectors = values[kept], vectors[:, kept]
    return -(D[:, chosen] - means) @ vectors / (2 * values.clamp_min(1e-300).sqrt())
