r"""The surplus of couples, from counts of couples and singles by type (Choo and Siow, JPE 2006).

Everybody chooses a type of partner, or none, for what it is worth and for a taste that is Gumbel. Couples and
singles then satisfy $\mu_{xy}^2 = \mu_{x0} \mu_{0y} e^{\Phi_{xy}}$. They minimise $-\langle \Phi, \mu \rangle$
plus entropies, of couples twice and of singles once (Galichon and Salanie, "Cupid's invisible hand", REStud 2022).

That is unbalanced transport at eps = 2 in which the price of a marginal p of n persons is the entropy of those who
are left single, $\sum_x (n_x - p_x) \log(n_x - p_x)$, up to what is linear in p. `KL` is another price: it allows
more couples than persons. It is also balanced transport, at eps = 1, from the whole population to itself: a single
is matched with the own type, couples count in both orders, and the cost is $-\Phi/2$ between types of different
sides, zero on the diagonal, and infinite elsewhere. This is what is solved here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.core.status import Status
from metaot.geometry.checks import given, require_finite, require_weights, together
from metaot.inverse.cost import learn_cost_from_plan
from metaot.inverse.estimate import Certificate, CostEstimate
from metaot.inverse.features import listed
from metaot.inverse.penalties import Penalty


def surplus(couples: ArrayLike, single_x: ArrayLike, single_y: ArrayLike) -> Float[Tensor, "n m"]:
    """Return log(mu_xy^2 / (mu_x0 mu_0y)) of couples, n m, and singles of both sides, n and m, by type.

    It is minus infinity where there are no couples. Raises ValueError for types without singles, whose surplus is
    not bounded, and for counts that are negative or do not fit.
    """
    mu, x, y = _counts(couples, single_x, single_y)
    return 2 * mu.log() - x.log()[:, None] - y.log()


@final
@dataclass(frozen=True)
class SurplusEstimate:
    """The surplus sum_k theta_k phi_k(x, y) that explains counts of couples, and the counts that it predicts.

    `estimate` is that of the balanced problem from the population, both sides one after the other, to itself.
    """

    estimate: CostEstimate
    features: Float[Tensor, "K n m"]
    households: float
    """The number of couples and singles."""

    @property
    def theta(self) -> Float[Tensor, "K"]:
        """The parameters of the surplus."""
        return self.estimate.theta

    @property
    def surplus(self) -> Float[Tensor, "n m"]:
        """The surplus of each pair of types."""
        return torch.tensordot(self.theta, self.features, 1)

    @cached_property
    def couples(self) -> Float[Tensor, "n m"]:
        """The predicted number of couples, by types."""
        n = self.features.shape[1]
        return self._population()[:n, n:]

    @cached_property
    def singles(self) -> tuple[Float[Tensor, "n"], Float[Tensor, "m"]]:
        """The predicted numbers of singles of both sides, by type."""
        n, alone = self.features.shape[1], self._population().diagonal()
        return alone[:n], alone[n:]

    @property
    def converged(self) -> bool:
        """Whether the optimality condition holds to the tolerance."""
        return self.estimate.converged

    @property
    def status(self) -> Status:
        """How the minimisation ended."""
        return self.estimate.status

    @property
    def certificate(self) -> Certificate | None:
        """The certificate of the penalty; None without a penalty."""
        return self.estimate.certificate

    @cached_property
    def standard_errors(self) -> Float[Tensor, "K"]:
        """Standard errors of theta over samples of households, whether the model holds or not.

        It is the sandwich H^-1 V H^-1, in which a couple is one observation although both have chosen. ValueError
        with a penalty, whose estimates are biased.
        """
        observed = self.estimate.observed
        moved = self.estimate.influence()
        n = self.features.shape[1]
        first, is_couple = observed.i < n, observed.i != observed.j
        moved = moved * torch.where(is_couple, 2.0, 1.0)[:, None]
        share = torch.where(first | ~is_couple, observed.weights, 0.0)  # each couple once
        persons = self._persons
        V = moved.mT @ (share[:, None] * moved) / persons
        inverse = self.estimate.inverse_hessian
        return (inverse @ V @ inverse).diagonal().sqrt()

    @property
    def _persons(self) -> float:
        count = self.estimate.observed.count
        assert count is not None
        return count

    def _population(self) -> Float[Tensor, "both both"]:
        return self._persons * self.estimate.solution.plan()

    def __repr__(self) -> str:
        _, n, m = self.features.shape
        words = "converged" if self.converged else f"not converged ({self.status.name})"
        return (
            f"SurplusEstimate of {len(self.theta)} parameters, {n} x {m} types, {self.households:g} households: "
            f"{words}, error {self.estimate.error:.1e}, {self.estimate.steps} steps"
        )


def learn_surplus(
    couples: ArrayLike,
    single_x: ArrayLike,
    single_y: ArrayLike,
    *,
    features: Sequence[object],
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    penalty: Penalty | None = None,
    tol: float = 1e-8,
    max_steps: int = 100,
) -> SurplusEstimate:
    """Learn the surplus sum_k theta_k phi_k of couples from counts by type (Choo and Siow; Galichon and Salanie).

    `couples`, n m, are counts of couples, `single_x`, n, and `single_y`, m, those of singles. Features are
    matrices n m, or functions of the types' coordinates `x`, n d, and `y`, m e. A constant is a feature like
    others, for singles tell how much a couple is worth. Pairs of types without couples are no obstacle. The
    estimate is that of maximum likelihood: predicted couples have the observed sums of all features. `penalty`,
    `tol` and `max_steps` are those of `learn_cost`, with counts divided by the number of persons.

    Raises ValueError for counts that are negative or do not fit, for types without singles, and for features that
    are constant zero or depend on each other.
    """
    mu, alone_x, alone_y = _counts(couples, single_x, single_y)
    n, m = mu.shape
    clouds = None
    if x is not None and y is not None:
        first, second = (cloud.double() for cloud in together(given("x", x), given("y", y)))
        clouds = (first.reshape(len(first), -1), second.reshape(len(second), -1))
    phi = listed(features, (n, m), clouds, mu).matrices
    population, base = mu.new_zeros(n + m, n + m), mu.new_full((n + m, n + m), torch.inf)
    _set_couples(population, mu)
    population.diagonal().copy_(torch.cat([alone_x, alone_y]))
    _set_couples(base, torch.zeros_like(mu))
    base.fill_diagonal_(0.0)
    both = mu.new_zeros(len(phi), n + m, n + m)
    _set_couples(both, -phi / 2)
    found = learn_cost_from_plan(
        population, eps=1.0, penalty=penalty, features=list(both), base=base, tol=tol, max_steps=max_steps
    )
    return SurplusEstimate(found, phi, float(mu.sum() + alone_x.sum() + alone_y.sum()))


def _set_couples(matrix: Float[Tensor, "*batch both both"], couples: Float[Tensor, "*batch n m"]) -> None:
    n = couples.shape[-2]
    matrix[..., :n, n:] = couples
    matrix[..., n:, :n] = couples.mT


def _counts(couples: ArrayLike, single_x: ArrayLike, single_y: ArrayLike) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts in float64; ValueError for those that do not fit, and for types without singles."""
    names = ("couples", "single_x", "single_y")
    parts = together(*map(given, names, (couples, single_x, single_y)))
    mu, x, y = (part.double() for part in parts)
    if mu.ndim != 2 or x.shape != mu.shape[:1] or y.shape != mu.shape[1:]:
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in zip(names, parts, strict=True))
        raise ValueError(f"couples must be n m, and singles n and m, by type, got {shapes}")
    for name, part in zip(names, (mu, x, y), strict=True):
        require_finite(name, part)
        require_weights(name, part.flatten(), part, mass_is_one=False)
    for name, part in (("single_x", x), ("single_y", y)):
        none = (part == 0).nonzero()
        if len(none):
            raise ValueError(
                f"each type must have singles, got {name}[{int(none[0])}] = 0: join it with another one"
            )
    return mu, x, y
