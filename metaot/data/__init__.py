"""Distributions of problems: images on grids, the user's arrays, pairs for maps, and snapshots of populations."""

from metaot.data.base import ProblemSet, SampleSet, SnapshotSet, Source, Split, middle, source_from_json
from metaot.data.costs import AxisPower, CostFamilies, CostFamilyPairs
from metaot.data.drawings import Drawings, Shapes
from metaot.data.images import ImagePairs, Mnist
from metaot.data.paintings import Paintings
from metaot.data.problems import ProblemFolder, write_problems
from metaot.data.roads import RoadNetwork, RoadProblems, Roads
from metaot.data.samples import Palettes, Planted
from metaot.data.snapshots import Snapshots
from metaot.data.sphere import Deliveries, Sphere

__all__ = [
    "AxisPower",
    "CostFamilies",
    "CostFamilyPairs",
    "Deliveries",
    "Drawings",
    "ImagePairs",
    "Mnist",
    "Paintings",
    "Palettes",
    "Planted",
    "ProblemFolder",
    "ProblemSet",
    "RoadNetwork",
    "RoadProblems",
    "Roads",
    "SampleSet",
    "Shapes",
    "SnapshotSet",
    "Snapshots",
    "Source",
    "Sphere",
    "Split",
    "middle",
    "source_from_json",
    "write_problems",
]
