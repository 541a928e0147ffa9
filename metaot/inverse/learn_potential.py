"""`learn_potential`: the potential behind a population, from samples of it at several times.

The losses are of arXiv 2505.07124 (Andrade, Peyre and Poon) and of JKOnet* (Terpin et al., arXiv 2406.12616).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.arrays import ArrayLike, as_count, as_number, as_positive, described, require_limits
from metaot.geometry.checks import given, require_cloud, together
from metaot.inverse.gaussian_snapshots import GaussianSnapshots
from metaot.inverse.matching import Energy, at_new, match_gradients, match_values
from metaot.inverse.penalties import Penalty
from metaot.inverse.population import PopulationPotential
from metaot.inverse.potential_network import trained
from metaot.inverse.quadratic import Quadratic
from metaot.inverse.sharpened import Sharpened
from metaot.inverse.snapshots import Move, Transport
from metaot.inverse.terms import Feature, Products, Terms

SCHEMES: dict[str, float | None] = {"jko": 1.0, "explicit": 0.0, "trapezoid": 0.5, "flow": None}
"""The share of the gradient at the new position in a step, old - new = tau ((1 - share) grad(old) + share
grad(new)): the steps of JKO, those of gradient descent, and the mean of both; None for the flow."""

_SOME = 256
"""Points that features are tried on."""


@torch.no_grad()
def learn_potential(
    snapshots: "Sequence[ArrayLike] | ArrayLike | GaussianSnapshots",
    *,
    tau: float | Sequence[float],
    eps: float | None = None,
    features: Feature | Sequence[Feature] | None = None,
    network: nn.Module | None = None,
    interaction: Feature | Sequence[Feature] | None = None,
    penalty: Penalty | None = None,
    ridge: float | None = 0.0,
    sharpen: float | None = None,
    scheme: str = "jko",
    unbiased: bool = True,
    network_steps: int = 2000,
    tol: float = 1e-4,
    max_steps: int = 10_000,
) -> PopulationPotential:
    """Learn the potential V that moves a population, dX/dt = -grad V(X), from samples of it at several times.

    `snapshots` are two or more clouds, n_k d, in the order of time; their points need not be the same ones. `tau`
    is the time between them, one number or one for each step. Consecutive clouds are matched by transport for the
    cost |x - y|^2: exactly, as an assignment, if `eps` is None, which is best where the same points are seen again
    and again; at the temperature `eps` for independent samples, less the map of each cloud to itself (`unbiased`).
    Each problem starts from the one before.

    V is a sum of `features`, functions of points, k d, that return k numbers or k p; None for all products of
    coordinates, V = x^T theta x. Or V is a `network`, k d -> k or k p: a copy is trained in `network_steps` steps,
    and its outputs are then features. `interaction` are features of differences of positions, of an even function
    W with dX/dt = -grad V(X) - E grad W(X - X'). `penalty` is `L1(lam)` or `Nuclear(lam)`. `ridge` is added to
    each feature in units of its own scale; None chooses it by leaving out one step after another.

    `sharpen` names the loss. None: the squared distance of gradients, E |grad V - (x - y)/tau|^2 / 2, the most
    accurate one. A number r: r times the sharpened Fenchel-Young loss L_r of a step, for which `eps` is needed;
    its steps have the entropy of that `eps`, as the paper defines them, and `unbiased` does not apply. `math.inf`:
    its limit, that of `unbiased=False`, Var[V + f/tau]/2, f the first variation of W_2^2/2.

    `scheme` says what a step is: "jko", old - new = tau grad V(new); "explicit", tau grad V(old); "trapezoid", the
    mean of both, for snapshots of a flow in continuous time, from which the others are off by a part of order tau.
    Of `GaussianSnapshots` V is x^T theta x, no transport is solved, and the scheme "flow" is exact.

    Raises ValueError for fewer than two snapshots, for points of different dimensions or that are not finite, for
    features that are constant (they are named), for fewer numbers than unknowns without a penalty, and for
    settings that do not fit each other.
    """
    fit = _Fit.of(sharpen, scheme, penalty, ridge)
    if network is not None and features is not None:
        raise ValueError("V is a sum of features or a network, got both: leave out one of them")
    if isinstance(snapshots, GaussianSnapshots):
        more: Mapping[str, object] = {
            "eps": eps,
            "features": features,
            "network": network,
            "interaction": interaction,
        }
        return fit.gaussians(snapshots, _times(tau, len(snapshots.means) - 1), more)
    clouds = _clouds(snapshots)
    taus = _times(tau, len(clouds) - 1)
    tol, max_steps = require_limits(tol, max_steps)
    transport = fit.transport(eps, clouds, taus, unbiased=unbiased, tol=tol, max_steps=max_steps)
    if network is None:
        energy = _energy(features, interaction, clouds)
        fit.require_enough(energy, clouds)
        moves = transport.moves(clouds, taus)
    else:
        moves = transport.moves(clouds, taus)
        network_steps = as_count("network_steps", network_steps)
        energy = _energy(trained(network, moves, fit.share_of_new, network_steps), interaction, clouds)
    return fit.samples(energy, moves, is_matrix=features is None and network is None, transport=transport)


@final
@dataclass(frozen=True)
class _Fit:
    """What is minimised: the loss (r None: that of gradients), for which scheme, and what is added."""

    r: float | None
    scheme: str
    penalty: Penalty | None
    ridge: float | None

    @classmethod
    def of(cls, sharpen: float | None, scheme: str, penalty: object, ridge: float | None) -> "_Fit":
        """Return checked settings."""
        if scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {sorted(SCHEMES)}, got {described(scheme)}")
        r = None if sharpen is None else as_number("sharpen", sharpen)
        if r is not None and not r > 0:
            raise ValueError(f"sharpen must be positive, math.inf, or None for gradients, got {r:g}")
        if r is not None and scheme not in ("jko", "flow"):
            raise ValueError(
                f"sharpen={r:g} compares values at the new snapshot, as JKO does, got scheme={scheme!r}: take "
                'scheme="jko", or sharpen=None'
            )
        if penalty is not None and not isinstance(penalty, Penalty):
            raise TypeError(
                f"penalty must be metaot.inverse.L1(lam), Nuclear(lam) or None, got {described(penalty)}"
            )
        if ridge is not None and not 0 <= as_number("ridge", ridge) < math.inf:
            raise ValueError(f"ridge must be finite and not negative, or None to choose it, got {ridge}")
        if ridge is None and penalty is not None:
            raise ValueError("a ridge is chosen where there is no other penalty, got both: name ridge, such as 0")
        return cls(r, scheme, penalty, ridge)

    @property
    def share_of_new(self) -> float:
        """The share of the gradient at the new position, for samples."""
        share = SCHEMES[self.scheme]
        if share is None:
            raise ValueError(
                "scheme='flow' is exact for Gaussians only: give GaussianSnapshots.of(snapshots), or take "
                "scheme='trapezoid', which is the nearest one for samples"
            )
        return share

    def transport(
        self, eps: object, clouds: list[Tensor], taus: list[float], *, unbiased: bool, tol: float, max_steps: int
    ) -> Transport:
        """Return how clouds are matched."""
        temperature = None if eps is None else as_positive("eps", eps)
        if self.r is not None and temperature is None and len({len(cloud) for cloud in clouds}) > 1:
            raise ValueError("values of clouds of different sizes need a temperature: name eps")
        if self.r is not None and self.r < math.inf:
            if temperature is None:
                raise ValueError("a finite sharpen needs the temperature of the transport: name eps")
            if not 2 * self.r * min(taus) > temperature:
                least = temperature / (2 * min(taus))
                raise ValueError(f"sharpen must be above eps/(2 tau), here {least:g}, got {self.r:g}")
            unbiased = False
        return Transport(temperature, self.share_of_new >= 0.5, unbiased, tol, max_steps)

    def require_enough(self, energy: Energy, clouds: list[Tensor]) -> None:
        """Raise ValueError for more unknowns than numbers that are observed."""
        dim = clouds[0].shape[1]
        unknowns = sum(energy.sizes(clouds[0]))
        if isinstance(energy.potential.features[0], Products):
            unknowns = dim * (dim + 1) // 2
        rows = sum(len(cloud) for cloud in clouds[1:]) * (dim if self.r is None else 1)
        if rows < unknowns and self.penalty is None and self.ridge == 0:
            raise ValueError(
                f"the snapshots have {rows} numbers, fewer than {unknowns} unknowns: take fewer features, more "
                "points, a penalty, or ridge=None"
            )

    def samples(
        self, energy: Energy, moves: list[Move], *, is_matrix: bool, transport: Transport
    ) -> PopulationPotential:
        """Return the best parameters for moves that transport found."""
        dim, sizes = moves[0].x.shape[1], energy.sizes(moves[0].x)
        shape = (dim, dim) if is_matrix and not sizes[1] else (sum(sizes),)
        if self.penalty is not None and self.penalty.of_matrices and len(shape) != 2:
            raise ValueError(
                "Nuclear is a penalty of the matrix theta of x^T theta x: leave out features, network and "
                "interaction, or take L1"
            )
        steps = sum(int(each.steps) for move in moves for each in move.solutions)
        if self.r is None or self.r == math.inf:
            if self.r is None:
                model = match_gradients(energy, moves, self.share_of_new)
            else:
                model = match_values(at_new(energy, moves), is_matrix=len(shape) == 2)
            theta, residual, ridge = model.minimum(self.penalty, shape, self.ridge)
        else:
            assert transport.eps is not None
            loss = Sharpened(
                at_new(energy, moves), transport.eps, self.r, self.penalty, shape, transport.max_steps
            )
            found = loss.minimum()
            theta, model, residual, ridge = found.theta, found.model, found.residual, 0.0
            steps += found.steps
        own = theta[: sizes[0]].reshape(dim, dim) if is_matrix else theta[: sizes[0]]
        more = theta[sizes[0] :] if sizes[1] else None
        return PopulationPotential(
            own, more, energy, dim, tuple(moves), model, self.penalty, ridge, residual, steps, len(moves) + 1
        )

    def gaussians(
        self, snapshots: GaussianSnapshots, taus: list[float], more: Mapping[str, object]
    ) -> PopulationPotential:
        """Return the best theta for Gaussian populations."""
        for name, value in more.items():
            if value is not None:
                raise ValueError(f"{name} is for samples: potentials of GaussianSnapshots are x^T theta x")
        if self.r is not None and self.r < math.inf:
            raise ValueError(f"sharpen must be None or math.inf for GaussianSnapshots, got {self.r:g}")
        dim, share = snapshots.means.shape[1], SCHEMES[self.scheme]
        shape = (dim, dim)
        model: Quadratic = (snapshots.gradients if self.r is None else snapshots.values)(taus, share)
        theta, residual, ridge = model.minimum(self.penalty, shape, self.ridge)
        energy = Energy(Terms((Products(dim),), "features"), None)
        return PopulationPotential(
            theta.reshape(shape), None, energy, dim, (), model, self.penalty, ridge, residual, 0, len(taus) + 1
        )


def _clouds(snapshots: Any) -> list[Float[Tensor, "_ d"]]:
    """Return clouds in float64 and on one device."""
    is_many = isinstance(snapshots, Sequence) or len(getattr(snapshots, "shape", ())) == 3
    count = len(snapshots) if is_many else 0
    if isinstance(snapshots, str) or count < 2:
        found = count if is_many else described(snapshots)
        raise ValueError(f"snapshots must be two or more clouds of points, n d, in the order of time, got {found}")
    parts = [given(f"snapshots[{k}]", snapshots[k], "points (a tensor, an array or a list)") for k in range(count)]
    for name, cloud, *_ in parts:
        require_cloud(name, cloud, None if cloud is parts[0].tensor else parts[0].tensor.shape[1])
    return [cloud.detach().double() for cloud in together(*parts)]


def _times(tau: Any, steps: int) -> list[float]:
    """Return the time of each step."""
    if isinstance(tau, str) or not (isinstance(tau, Sequence) or getattr(tau, "shape", ())):
        return [as_positive("tau", tau)] * steps
    if len(tau) != steps:
        raise ValueError(f"tau must be one number, or one for each of {steps} steps, got {len(tau)}")
    return [as_positive(f"tau[{k}]", each) for k, each in enumerate(tau)]


def _energy(features: object, interaction: object, clouds: list[Tensor]) -> Energy:
    """Return features that were tried on some points; ValueError for those that are constant."""
    dim, share = clouds[0].shape[1], max(2, _SOME // len(clouds))
    potential = Terms.of("features", Products(dim) if features is None else features)
    energy = Energy(potential, None if interaction is None else Terms.of("interaction", interaction))
    some = torch.cat([cloud[:: max(1, len(cloud) // share)][:share] for cloud in clouds])
    potential.require_varied(some)
    if energy.interaction is not None:
        energy.interaction.require_varied(some - some.roll(1, 0))
    return energy
