"""What training maximises or minimises: functions (problem, prediction) -> value per instance."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from metaot.objectives.dual import dual_loss, dual_value, scaled_dual_loss

Objective = Callable[[Any, Any], Tensor]
"""A loss of a prediction: (problem, prediction) -> one number for each instance."""

__all__ = ["Objective", "dual_loss", "dual_value", "scaled_dual_loss"]
