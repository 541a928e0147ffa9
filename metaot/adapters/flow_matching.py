"""Interfaces of libraries for flow matching, filled by `metaot.couple`: nothing of them is imported.

Of torchcfm, whose sampler copies to the host, draws pairs with replacement, and so loses points:

    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    matcher.ot_sampler = flow_matching.OTPlanSampler()

and where a function of two clouds returns a plan: `match_fn`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.maps import couple


@final
class OTPlanSampler:
    """The sampler of torchcfm, with each point in one pair; `settings` are those of `metaot.couple`.

    Labels are only carried along. Their pairs within a class are `couple(..., classes=...)`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def get_map(self, x0: Tensor, x1: Tensor) -> Float[Tensor, "n m"]:
        """Return the pairs as a plan: a matrix of masses."""
        return match_fn(**self.settings)(x0, x1)

    def sample_map(self, pi: Tensor, batch_size: int, replace: bool = False) -> tuple[Tensor, Tensor]:
        """Return places i and j of pairs that are drawn from a plan, each entry by its mass."""
        drawn = torch.multinomial(pi.flatten(), batch_size, replacement=replace)
        return drawn // pi.shape[-1], drawn % pi.shape[-1]

    def sample_trajectory(self, X: Float[Tensor, "n times ..."]) -> Float[Tensor, "n times ..."]:
        """Return paths through the clouds X[:, 0], X[:, 1], ...: each point is in one."""
        clouds, place = X.unbind(1), torch.arange(len(X), device=X.device)
        path = [clouds[0]]
        for here, there in pairwise(clouds):
            place = couple(here, there, **self.settings).j[place]
            path.append(there[place])
        return torch.stack(path, 1)

    def sample_plan(self, x0: Tensor, x1: Tensor, replace: bool = False) -> tuple[Tensor, Tensor]:
        """Return the points in pairs; `replace` has no meaning here."""
        i, j = couple(x0, x1, **self.settings)
        return x0[i], x1[j]

    def sample_plan_with_labels(
        self, x0: Tensor, x1: Tensor, y0: Tensor | None = None, y1: Tensor | None = None, replace: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the points in pairs, and their labels."""
        i, j = couple(x0, x1, **self.settings)
        return x0[i], x1[j], None if y0 is None else y0[i], None if y1 is None else y1[j]


def match_fn(**settings: Any) -> Callable[[Tensor, Tensor], Float[Tensor, "n m"]]:
    """Return a function of two clouds that returns the plan of their pairs; settings are those of `couple`."""

    def matched(x: Tensor, y: Tensor) -> Float[Tensor, "n m"]:
        i, j = couple(x, y, **settings)
        plan = torch.zeros(len(x), len(y), dtype=x.dtype, device=x.device)
        return plan.index_put((i, j), plan.new_full((), 1 / len(i)), accumulate=True)

    return matched
