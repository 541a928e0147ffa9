"""metaot: predict the solution of optimal transport problems, then refine and certify it."""

from importlib import import_module
from typing import TYPE_CHECKING

from metaot import named as _named

if TYPE_CHECKING:
    from metaot.brenier import BrenierPair as BrenierPair
    from metaot.brenier import SampleProblem as SampleProblem
    from metaot.core import Status as Status
    from metaot.geometry import Dense as Dense
    from metaot.geometry import Geometry as Geometry
    from metaot.geometry import Grid as Grid
    from metaot.geometry import Points as Points
    from metaot.loader import load as load
    from metaot.maps import Coupling as Coupling
    from metaot.maps import SemiDiscrete as SemiDiscrete
    from metaot.maps import couple as couple
    from metaot.marginals import KL as KL
    from metaot.marginals import TV as TV
    from metaot.objectives import dual_value as dual_value
    from metaot.onnx import OnnxMap as OnnxMap
    from metaot.onnx import OnnxModel as OnnxModel
    from metaot.onnx import OnnxSemiDiscrete as OnnxSemiDiscrete
    from metaot.potentials import DualPotentials as DualPotentials
    from metaot.potentials import c_transform as c_transform
    from metaot.problem import Problem as Problem
    from metaot.solvers import W2GN as W2GN
    from metaot.solvers import GaussNewton as GaussNewton
    from metaot.solvers import Newton as Newton
    from metaot.solvers import Sinkhorn as Sinkhorn
    from metaot.solvers import Solution as Solution
    from metaot.solvers import Solver as Solver
    from metaot.solvers import solve as solve
    from metaot.tools import ot_value as ot_value

_NAMES = {
    "core": ("Status",),
    "brenier": ("BrenierPair", "SampleProblem"),
    "geometry": ("Dense", "Geometry", "Grid", "Points"),
    "loader": ("load",),
    "maps": ("Coupling", "SemiDiscrete", "couple"),
    "marginals": ("KL", "TV"),
    "objectives": ("dual_value",),
    "onnx": ("OnnxMap", "OnnxModel", "OnnxSemiDiscrete"),
    "potentials": ("DualPotentials", "c_transform"),
    "problem": ("Problem",),
    "solvers": ("W2GN", "GaussNewton", "Newton", "Sinkhorn", "Solution", "Solver", "solve"),
    "tools": ("ot_value",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_HOME)  # pyrefly: ignore[unresolvable-dunder-all]
__version__ = "0.2.0"

_named.open_by(lambda name: import_module("metaot.loader").load(name))


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'metaot' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"metaot.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
