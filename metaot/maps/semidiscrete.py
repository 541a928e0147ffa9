"""`SemiDiscrete`: transport from a distribution that can be sampled to a data set.

The potential on the data is learned once (metaot/maps/ascent.py); a new sample is then coupled with the data by
one product (arXiv 2509.25519).
"""

import math
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.amortize import Predictor
from metaot.arrays import ArrayLike, as_number
from metaot.geometry import Points
from metaot.geometry.checks import first_place, given, masses, require_finite, tensor, together
from metaot.geometry.costs import Cost, name_of_cost
from metaot.maps.fitting import Fit
from metaot.maps.marginal_error import MarginalError, marginal_error
from metaot.maps.samplers import Draw, Stream
from metaot.models.data_set import DataSetPotential
from metaot.potentials import DualPotentials, as_potential
from metaot.problem import Problem, require_balanced

_TAKEN = "points (a tensor, an array or a list)"


@final
class SemiDiscrete(Predictor):
    """Transport from a distribution to a data set y, m *shape, with weights b, for a cost of `metaot.Points`.

        semi = metaot.SemiDiscrete(data).fit(metaot.maps.Normal(2))
        j = semi.assign(noise)  # data[j] goes with the noise

    `eps` is the temperature in the units of the cost; without one, 0, each sample goes to one of the data. `fit`
    learns the potential g, m, and `error` says how far from b the masses are that the data then receive: a
    `MarginalError`, or None. `samples` is what the fit has drawn, `evaluations` how often it has sent one of them
    to the data, `converged` whether its error and the standard error of that are at most
    its `tol`.

    Data are a tensor, an array or a list, in float32 or float64, and are computed with as they are; points may be
    images. Their order is that of `assign`. As a predictor it is for problems whose target has these points and
    weights; `metaot.load` opens what `fit` or `metaot.checkpoint.save` wrote. Raises ValueError for data that are
    not finite or empty, for weights that do not fit, and for a negative eps.
    """

    def __init__(
        self, y: ArrayLike, b: ArrayLike | None = None, cost: str | Cost = "sqeuclidean", eps: float = 0.0
    ) -> None:
        (data,) = together(given("y", y, _TAKEN))
        if data.ndim < 2 or 0 in data.shape:
            line = ": points on a line are y[:, None]" if data.ndim == 1 else ""
            raise ValueError(f"y must have the shape (points, *shape), got {tuple(data.shape)}{line}")
        data = data.detach().flatten(1).contiguous()
        Points(data[:1], data, cost)  # which checks both
        eps = as_number("eps", eps)
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps must be finite, and positive or 0 for none, got {eps:g}")
        weights = masses("b", b, len(data), data, ())
        if weights.ndim != 1:
            raise ValueError(f"b must have the shape ({len(data)},), got {tuple(weights.shape)}")
        self.model = DataSetPotential.of(data, weights, cost, eps)
        self._reset()

    @classmethod
    def of(cls, model: DataSetPotential, error: MarginalError | None = None) -> "SemiDiscrete":
        """Return what was fitted before, with its potential."""
        self = object.__new__(cls)
        self.model = model
        self._reset()
        self.error, self._is_fitted = error, True
        return self

    def _reset(self) -> None:
        self.error: MarginalError | None = None
        self.samples, self.evaluations, self.converged, self._is_fitted = 0, 0, False, False

    @property
    def y(self) -> Float[Tensor, "m d"]:
        """The data, as vectors."""
        return self.model.data

    @property
    def b(self) -> Float[Tensor, "m"]:
        """The weights of the data, of mass one."""
        return self.model.b

    @property
    def g(self) -> Float[Tensor, "m"]:
        """The potential on the data, in the units of the cost."""
        return self._fitted().g

    @property
    def eps(self) -> tuple[float, float] | None:
        return (self.model.eps, self.model.eps) if self.model.eps else None

    @property
    def domain(self) -> str:
        m, d = self.model.y.shape
        return f"problems whose target is a set of {m} data in dimension {d}, cost {name_of_cost(self.model.cost)}"

    @torch.no_grad()
    def fit(
        self,
        sampler: Draw,
        *,
        tol: float = 1e-2,
        max_samples: int = 2**23,
        init: ArrayLike | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        save_every: int = 200,
        progress: bool = True,
    ) -> "SemiDiscrete":
        """Learn the potential for the distribution of a sampler, and return this object.

        `sampler` is a function (count, generator) -> points, count d, or a `metaot.maps.Sampler`, such as
        `Normal(dim)` or `Uniform(dim)`, whose points are quasi-random ones: fewer are needed. It starts from the
        solution between some samples and some of the data, or from a potential `init`, m. Then Newton steps on
        more and more samples follow, for up to about two thousand data; averaged stochastic steps for more. It
        ends when the chi-squared error on fresh samples, with its standard error added, is at most `tol`; at
        `max_samples`; and at Ctrl-C or SIGTERM, without measuring again. Not
        converging is a result.

        In a `folder` it saves every `save_every` steps, and at the end: a checkpoint, training.pt, and board/
        (TensorBoard). `resume` goes on with the run there as if it had not ended; `overwrite` replaces it. Raises
        ValueError for a sampler of other points, for settings that mean nothing, and as `metaot.training.train`
        for the folder; FloatingPointError where a potential is no longer finite.
        """
        begin = None if init is None else as_potential("init", init, self.b, ()).to(self.model.g)
        where = None if folder is None else Path(folder)
        fit = Fit(self.model, Stream(sampler, seed, self.model.y), tol, max_samples, save_every)
        state, self.error = fit.run(begin, where, resume=resume, overwrite=overwrite, progress=progress)
        self.samples, self.evaluations, self._is_fitted = state.samples, state.evaluations, True
        self.converged = self.error is not None and self.error.is_within(tol)
        return self

    @torch.no_grad()
    def assign(self, x: ArrayLike, generator: torch.Generator | None = None) -> Int[Tensor, "k"]:
        """Return the number of one of the data for each of the points x, k *shape.

        Without a temperature the best one; else it is drawn, by `generator`, with the probabilities of the plan.
        """
        return self._fitted().assigned(self._points("x", x), generator)

    @torch.no_grad()
    def conditional(self, x: ArrayLike) -> Float[Tensor, "k m"]:
        """Return the probabilities with which points x, k *shape, go to each of the data: a matrix."""
        return self._fitted().conditional(self._points("x", x))

    @torch.no_grad()
    def map(self, x: ArrayLike) -> Float[Tensor, "k d"]:
        """Return where points x, k *shape, are sent: to one of the data, or to their mean at the temperature.

        The mean is that of the cost, as for `metaot.maps.EntropicMap`.
        """
        return self._fitted().sent(self._points("x", x))

    @torch.no_grad()
    def potential(self, x: ArrayLike) -> Float[Tensor, "k"]:
        """Return the potential f at points x, k *shape: the best one for g."""
        return self._fitted().potential(self._points("x", x))

    @torch.no_grad()
    def measure(self, sampler: Draw, samples: int, seed: int = 1) -> MarginalError:
        """Return the chi-squared error of the masses that the data receive, from fresh samples."""
        stream = Stream(sampler, seed, self.model.y)
        return marginal_error(self._fitted().b, stream.fresh, self.model.received, samples)

    def predict(self, problem: Problem) -> DualPotentials:
        f = self.warm_start(problem)
        return DualPotentials.from_f(problem, f)

    def warm_start(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        require_balanced(problem, "a semi-discrete potential")
        self._require_known(problem)
        h = self._fitted().h.to(problem.b).expand(problem.b.shape)
        return problem.geometry.softmin(h, problem.eps)

    def _require_known(self, problem: Problem) -> None:
        """Raise ValueError unless the target of a problem is the data set, and the temperature that of the fit."""
        space, m = problem.geometry, len(self.model.y)
        mine, theirs = name_of_cost(self.model.cost), space.cost_name
        points = None if space.points is None else space.points[1]
        if points is None or (theirs is not None and name_of_cost(theirs) != mine):
            raise ValueError(f"the potential is for points with the cost {mine}, got a problem on {space}")
        if points.shape[-2:] != self.model.y.shape or not _close(points, self.y):
            raise ValueError(f"the potential is for its {m} data as targets, got other ones on {space}")
        if not _close(problem.b * m, self.b * m):
            raise ValueError("the potential is for the weights b of its data, got other ones on the same points")
        eps = torch.as_tensor(problem.eps)
        off = (eps - self.model.eps).abs() > 1e-6 * self.model.eps
        if self.model.eps and bool(off.any()):
            raise ValueError(
                f"the potential was fitted for eps {self.model.eps:g}, got eps{first_place(off, eps)}"
            )

    def _fitted(self) -> DataSetPotential:
        if not self._is_fitted:
            raise ValueError("there is no potential yet: call fit(sampler) first")
        return self.model

    def _points(self, name: str, x: ArrayLike) -> Float[Tensor, "k d"]:
        like = self.model.y
        points = tensor(name, x, like=like, taken=_TAKEN).detach().to(like)
        flat = points.flatten(1) if points.ndim > 1 else points
        if flat.ndim != 2 or flat.shape[1] != like.shape[1]:
            line = f": points on a line are {name}[:, None]" if points.ndim == 1 else ""
            raise ValueError(
                f"{name} must have the shape (points, *shape) with {like.shape[1]} numbers in a point, as the "
                f"data have, got {tuple(points.shape)}{line}"
            )
        require_finite(name, flat)
        return flat


def _close(theirs: Tensor, mine: Tensor) -> bool:
    return torch.allclose(theirs.to(mine), mine.expand_as(theirs), 1e-5, 1e-5)
