"""Maps between measures, at any point and in several steps; pairs of points; plans between different spaces.

And transport from a distribution to a data set.
"""

from metaot.entropic_map import EntropicMap
from metaot.maps.coupling import Coupling, couple
from metaot.maps.gromov_wasserstein import GromovWasserstein, gromov_wasserstein
from metaot.maps.marginal_error import MarginalError
from metaot.maps.progressive import ProgressiveMap, progot
from metaot.maps.samplers import Image, Normal, Sampler, Uniform
from metaot.maps.semidiscrete import SemiDiscrete

__all__ = [
    "Coupling",
    "EntropicMap",
    "GromovWasserstein",
    "Image",
    "MarginalError",
    "Normal",
    "ProgressiveMap",
    "Sampler",
    "SemiDiscrete",
    "Uniform",
    "couple",
    "gromov_wasserstein",
    "progot",
]
