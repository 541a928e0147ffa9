"""What training maximises or minimises: functions (problem, prediction) -> value per instance."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from metaot.objectives.brenier import brenier_loss, brenier_value, w2gn_loss
from metaot.objectives.dual import dual_loss, dual_value, scaled_dual_loss

Objective = Callable[[Any, Any], Tensor]
"""A loss of a prediction: (problem, prediction) -> one number for each instance."""

__all__ = [
    "Objective",
    "brenier_loss",
    "brenier_value",
    "dual_loss",
    "dual_value",
    "scaled_dual_loss",
    "w2gn_loss",
]
