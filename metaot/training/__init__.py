"""Training: recipes and the loop that follows them."""

from metaot.training.loop import train
from metaot.training.recipe import Recipe, override

__all__ = ["Recipe", "override", "train"]
