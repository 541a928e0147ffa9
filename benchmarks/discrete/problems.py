"""The problems: MNIST pairs, paintings as grey images, random clouds; each a seeded list of instances."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image

from metaot import Grid, Points, Problem
from metaot.data import Mnist
from metaot.data.images import ImagePairs
from metaot.folders import data_folder

SEED, CALIBRATION_SEED = 20261122, 7
CLOUD = 1000
"""Atoms of each random cloud."""

RELATIVE_EPS = 1e-2
"""eps of the clouds, in units of the mean cost."""


@final
@dataclass(frozen=True)
class Instance:
    """What a method is timed on: one problem, or a batch of them that is solved at once."""

    problem: Problem

    @property
    def eps(self) -> float:
        return float(self.problem.eps)

    @property
    def size(self) -> int:
        """How many problems it holds."""
        return self.problem.batch_shape.numel()

    @cached_property
    def rows(self) -> np.ndarray:
        """The atoms of the source with mass."""
        return np.flatnonzero(self.problem.a.numpy())

    @cached_property
    def columns(self) -> np.ndarray:
        return np.flatnonzero(self.problem.b.numpy())

    @cached_property
    def a(self) -> np.ndarray:
        """The weights of the atoms with mass."""
        return self.problem.a.numpy()[self.rows]

    @cached_property
    def b(self) -> np.ndarray:
        return self.problem.b.numpy()[self.columns]

    @cached_property
    def cost(self) -> np.ndarray:
        """The cost matrix between the atoms with mass."""
        x, y = (points.numpy() for points in self.problem.geometry.points)
        x, y = x[self.rows], y[self.columns]
        return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)

    def split(self) -> "list[Instance]":
        """Return the problems of a batch one by one."""
        return [self] if not self.problem.batch_shape else [Instance(self.problem[k]) for k in range(self.size)]


@final
@dataclass(frozen=True)
class Family:
    """A named list of instances; `draw(seed, count)` yields them."""

    name: str
    title: str
    count: int
    atoms: int
    draw: Callable[[int, int], Iterator[Instance]]
    size: int = 1
    grid: bool = True
    images: bool = False
    eps: float = 0.0
    """The one of all problems; zero where it differs."""

    @property
    def entries(self) -> int:
        """An upper bound for the entries of a cost matrix on the support."""
        return self.atoms**2

    @property
    def calibration(self) -> int:
        """How many other instances a setting is chosen on; fewer where they are large."""
        return 16 if self.atoms <= 1024 and self.size == 1 else 2


def families(pairs: int, data_dir: Path | None) -> list[Family]:
    """Return all problems; data are read when instances are drawn."""
    chosen = []
    for eps in (1e-2, 1e-3, 3e-4):
        title = f"MNIST, 28 x 28, eps = {eps:g}"
        chosen.append(
            Family(
                f"mnist-{eps:g}",
                title,
                pairs,
                350,
                lambda *s, e=eps: mnist(*s, 1, e, data_dir),
                images=True,
                eps=eps,
            )
        )
    for eps in (1e-2, 1e-3):
        title = f"MNIST, 28 x 28, eps = {eps:g}, batches of 64"
        draw = lambda *s, e=eps: mnist(*s, 64, e, data_dir)  # noqa: E731
        count = max(1, round(pairs / 16))
        chosen.append(Family(f"batch64-mnist-{eps:g}", title, count, 350, draw, size=64, images=True, eps=eps))
    for side, share in ((64, 0.2), (128, 0.08), (256, 0.08)):
        for eps in (1e-2, 1e-3):
            title = f"paintings, {side} x {side}, eps = {eps:g}"
            draw = lambda *s, n=side, e=eps: paintings(*s, n, e, data_dir)  # noqa: E731
            count = max(2, round(share * pairs))
            chosen.append(Family(f"paintings{side}-{eps:g}", title, count, side**2, draw, images=True, eps=eps))
    for d in (2, 64):
        title = f"clouds of {CLOUD} Gaussian points in dimension {d}, eps = {RELATIVE_EPS:g} of the mean cost"
        draw = lambda *s, d=d: clouds(*s, d)  # noqa: E731
        chosen.append(Family(f"cloud{d}", title, max(2, round(0.3 * pairs)), CLOUD, draw, grid=False))
    return chosen


def mnist(seed: int, count: int, size: int, eps: float, data_dir: Path | None) -> Iterator[Instance]:
    """Yield pairs of test digits, or batches of them."""
    digits = replace(Mnist(batch=count * size).split("test", data_dir), eps=(eps, eps))
    yield from _instances(digits, seed, count, size, eps)


def paintings(seed: int, count: int, side: int, eps: float, data_dir: Path | None) -> Iterator[Instance]:
    """Yield pairs of the pictures in `paintings/` of the data folder: grey, the central square, `side` pixels."""
    folder = data_folder(data_dir) / "paintings"
    files = sorted(file for file in folder.glob("*") if file.suffix in {".jpg", ".jpeg", ".png"})
    if not files:
        raise FileNotFoundError(f"there are no pictures in {folder}: copy some there, or leave this problem out")
    images = torch.stack([_grey(file, side) for file in files])
    yield from _instances(ImagePairs(count, (eps, eps), images), seed, count, 1, eps)


def clouds(seed: int, count: int, d: int) -> Iterator[Instance]:
    """Yield two Gaussian clouds, the second one shifted by one in each coordinate, uniform weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.full((CLOUD,), 1 / CLOUD, dtype=torch.float64)
    for _ in range(count):
        x, y = torch.randn(2, CLOUD, d, generator=generator, dtype=torch.float64)
        y = y + 1
        mean_cost = float(torch.cdist(x, y).square().mean())
        yield Instance(Problem(weights, weights, Points(x, y), RELATIVE_EPS * mean_cost))


def _instances(pairs: ImagePairs, seed: int, count: int, size: int, eps: float) -> Iterator[Instance]:
    a, b = pairs.weights(torch.Generator().manual_seed(seed))
    geometry = Grid(*pairs.images.shape[1:])
    for k in range(count):
        chosen = k if size == 1 else slice(k * size, (k + 1) * size)
        yield Instance(Problem(a[chosen], b[chosen], geometry, eps))


def _grey(file: Path, side: int) -> torch.Tensor:
    picture = Image.open(file).convert("L")
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = picture.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square, dtype=np.uint8))
