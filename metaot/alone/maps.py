"""Maps between two clouds: by a network, or linear."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from metaot.alone.frame import FrameAlone
from metaot.alone.palette import PaletteAlone
from metaot.alone.tensors import read_tensors
from metaot.folders import WEIGHTS, located, read_card

Array = np.ndarray
Map = Callable[[Array], Array]


@final
@dataclass(frozen=True)
class MapPair:
    """`push` sends points of the source, k d, to the target; `pull` those of the target to the source. float32."""

    push: Map
    pull: Map


@final
class MapModel:
    """A network with the frame that it works in."""

    def __init__(self, network: PaletteAlone) -> None:
        self.network = network

    @classmethod
    def load(cls, path: str | Path) -> "MapModel":
        """Read a checkpoint folder, or a shipped one by its name; ValueError unless it is of a `PaletteIcnn`."""
        folder = located(path)
        model = read_card(folder)["model"]
        if model["kind"] != "PaletteIcnn":
            raise ValueError(
                f"{folder} holds a {model['kind']!r}, which reads no clouds: train one with `metaot train palette`"
            )
        tensors = read_tensors(folder / WEIGHTS).items()
        return cls(PaletteAlone(model["config"], {name.removeprefix("model."): each for name, each in tensors}))

    @property
    def dim(self) -> int:
        """The dimension of the spaces."""
        return self.network.dim

    def predict(self, x: Array, y: Array) -> MapPair:
        """Return the maps between samples x, n d, and y, m d."""
        frame = FrameAlone.gaussian(x, y)
        phi, psi = map(self.network.potential, self.weights(frame, x, y))
        return MapPair(phi.within(frame), psi.within(frame.T))

    def weights(self, frame: FrameAlone, x: Array, y: Array) -> Array:
        """Return the weights of phi and of psi, 2 count, in the samples' frame."""
        return self.network(frame.enter(x), frame.T.enter(y))


def linear_map(x: Array, y: Array) -> MapPair:
    """Return the maps between the Gaussians with the samples' means and covariances."""
    frame = FrameAlone.gaussian(x, y)
    return MapPair(_linear(frame), _linear(frame.T))


def _linear(frame: FrameAlone) -> Map:
    parts = (frame.m, frame.n, frame.scale * frame.U.T @ frame.U)
    m, n, matrix = (part.astype(np.float32) for part in parts)
    return lambda x: (x - m) @ matrix + n
