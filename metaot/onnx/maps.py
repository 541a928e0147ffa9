"""`OnnxMap`: transport maps between clouds, and recoloured pictures, with numpy and onnxruntime only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from metaot import digest
from metaot.folders import read_card, read_weights
from metaot.onnx.checks import samples
from metaot.onnx.files import OnnxFile, described, runner, sessions
from metaot.pictures import moved, palette

Array = np.ndarray

NETWORK = "model.onnx"
"""The file of a network of maps in its checkpoint's folder; model-push.onnx is there as well."""
METADATA = ("metaot", "model", "recipe", "data", "maps", "quality")
"""What the file says of the model, each as JSON."""
PARTS = ("phi", "psi", "m", "n", "U", "V", "scale")
"""What the hypernetwork's graph returns."""


@final
@dataclass(frozen=True)
class OnnxPair:
    """Two predicted potentials: their weights, *batch count, and the frame that they live in; all float32.

    `frame` holds m and n, *batch d, U and V, *batch d d, and scale, *batch: see `metaot.brenier.Frame`.
    """

    phi: Array
    psi: Array
    frame: dict[str, Array]
    run: Callable[..., list[Array]]

    def __repr__(self) -> str:
        return f"OnnxPair of the batch {self.phi.shape[:-1]} in dimension {self.frame['m'].shape[-1]}"

    def push(self, x: Array) -> Array:
        """Send points of the source, *batch k d, to the target."""
        return self._sent("x", x, self.phi, ("m", "n", "U"))

    def pull(self, y: Array) -> Array:
        """Send points of the target, *batch k d, back to the source."""
        return self._sent("y", y, self.psi, ("n", "m", "V"))

    def _sent(self, name: str, points: Array, weights: Array, frame: tuple[str, str, str]) -> Array:
        points = samples(name, points, self.frame["m"].shape[-1], least=0)
        batch = self.phi.shape[:-1]
        if points.shape[:-2] != batch:
            raise ValueError(f"{name} must have the shape {(*batch, 'k', 'd')}, got {points.shape}")
        start, end, matrix = (self.frame[key] for key in frame)
        feeds = {"x": points, "weights": weights, "m": start, "n": end, "U": matrix, "scale": self.frame["scale"]}
        rank = len(batch)
        flat = {key: np.ascontiguousarray(v.reshape(-1, *v.shape[rank:])) for key, v in feeds.items()}
        return self.run(["y"], flat, None)[0].reshape(points.shape)


@final
class OnnxMap(OnnxFile):
    """A model of maps from the two files that `export.py` wrote: FILE.onnx and FILE-push.onnx.

    `dim` is the dimension of the spaces, `metadata` all that the file says of the model: its recipe, training data
    and measured quality. Maps have no geometry and no temperature: `geometry` and `eps` are None. Threads,
    providers, pickling and errors as for `OnnxModel`.
    """

    geometry: None = None
    eps: None = None

    @staticmethod
    def files(path: Path) -> tuple[Path, ...]:
        return path, push_file(path)

    def _open(self, names: Sequence[str], contents: Sequence[bytes], **settings: Any) -> None:
        both = sessions(names, contents, optimise=False, **settings)
        pairs = zip(names, both, strict=True)
        found = [described(name, opened, METADATA, ("maps",), "OnnxModel") for name, opened in pairs]
        inputs = [opened.get_inputs()[1].name for opened in both]
        if found[0] != found[1] or inputs != ["y", "weights"]:
            raise ValueError(f"{names[0]} and {names[1]} are no pair of files: export them anew")
        self.metadata = found[0]
        self.dim: int = self.metadata["maps"]["dim"]
        self._predict, self._push = map(runner, both)

    def predict(self, x: Any, y: Any) -> OnnxPair:
        """Return the pair of potentials of samples x, *batch n d, and y, *batch m d, float32 or float64.

        Raises ValueError for samples that are not finite, and for shapes that do not fit.
        """
        x, y = samples("x", x, self.dim, least=2), samples("y", y, self.dim, least=2)
        batch = x.shape[:-2]
        if y.shape[:-2] != batch:
            raise ValueError(f"x of shape {x.shape} and y of {y.shape} differ in their batch")
        feeds = {name: z.reshape(-1, *z.shape[-2:]) for name, z in (("x", x), ("y", y))}
        phi, psi, *frame = (part.reshape((*batch, *part.shape[1:])) for part in self._predict(PARTS, feeds, None))
        return OnnxPair(phi, psi, dict(zip(PARTS[2:], frame, strict=True)), self._push)

    def weights(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the weights of phi and psi for float32 samples, batch n d and batch m d, without checks."""
        phi, psi = self._predict(PARTS[:2], {"x": x, "y": y}, None)
        return phi, psi

    def recolor(self, source: Array, target: Array) -> Array:
        """Return a picture in the palette of another one: arrays uint8, height width 3, or 4 with transparency.

        Transparency is kept; transparent pixels are no part of a palette.
        """
        if self.dim != 3:
            raise ValueError(f"colours have three channels, this model is for dimension {self.dim}")
        return moved(source, self.predict(palette(source), palette(target)).push)

    def __repr__(self) -> str:
        return f"OnnxMap for samples in dimension {self.dim} ({self._state[0]})"


def push_file(path: Path) -> Path:
    """Return the name of the second file."""
    return path.with_name(f"{path.stem}-push{path.suffix}")


def fingerprint(folder: Path) -> str:
    """Return the digest of the weights in a checkpoint's folder, as `metaot.onnx.compiled.fingerprint`."""
    import safetensors.numpy  # noqa: PLC0415, who opens exported files needs none of it

    content = read_weights(folder, read_card(folder))
    arrays = {
        name.removeprefix("model."): value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in safetensors.numpy.load(content).items()
        if name.startswith("model.")
    }
    return digest.of_arrays(arrays)


def map_beside(folder: Path, *, threads: int = 1) -> OnnxMap | None:
    """Open the network of a checkpoint of maps; None where there is none, or only one without a digest.

    Raises ValueError where it was made from other weights, and as `OnnxMap`.
    """
    file = folder / NETWORK
    if not file.exists() and not push_file(file).exists():
        return None
    if "digest" not in read_card(folder):
        return None
    network = OnnxMap(file, threads=threads)
    if network.metadata["maps"]["weights"] != fingerprint(folder):
        raise ValueError(
            f"{file} was made from other weights than those beside it: `metaot export {folder} --out {file}` "
            "makes it anew"
        )
    return network
