"""Training: recipes and the loop that follows them."""

from metaot.training.loop import train
from metaot.training.overrides import Setting, override, settings_of
from metaot.training.recipe import Recipe

__all__ = ["Recipe", "Setting", "override", "settings_of", "train"]
