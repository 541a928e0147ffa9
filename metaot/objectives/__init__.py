"""What training maximises or minimises: functions (problem, prediction) -> value per instance."""

from metaot.objectives.dual import dual_loss, dual_value

__all__ = ["dual_loss", "dual_value"]
