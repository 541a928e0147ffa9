"""Solvers, geometries, predictors and training work on another device, and all shapes are those annotated.

The device is pretended, "remote": torch takes its tensors for those of an accelerator, and a CPU computes with
them. Where CPU and remote tensors meet, or numpy is asked for, an error is raised, as on a GPU. The device is
registered for a whole process, and so is the check of the annotations; so this file is run as a script, which
writes the errors of `CASES` as JSON.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from strategies import on_sphere
from strategies import weights as weights_here
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import metaot
from metaot import inverse, losses
from metaot.amortize.costs import CostPotential
from metaot.amortize.maps import BuresStart
from metaot.averages import barycenter, entropic_barycenter, free_barycenter
from metaot.core import method
from metaot.data import Drawings, Palettes, Shapes, Sphere, snapshots
from metaot.geometry import Dense, Geometry, Grid, LpPower, Points
from metaot.inverse import L1, GaussianSnapshots, Monomials, Nuclear, learn_cost, learn_potential
from metaot.maps import gromov_wasserstein
from metaot.models import ModalPotential, single
from metaot.models.costs import CostNetwork
from metaot.objectives import brenier_loss
from metaot.recipes import RECIPES
from metaot.tools import value as distance
from metaot.training import tasks
from metaot.training.loop import _new_state, _update
from metaot.training.processes import Processes
from metaot.training.tasks import DiscreteTask

NAME = "remote"
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
"""Operators whose second argument, the indices, may lie on the CPU."""


class Remote(torch.Tensor):
    """A tensor on the device; `local` holds its numbers."""

    local: Tensor

    @staticmethod
    def __new__(cls, local: Tensor) -> "Remote":
        found = torch.Tensor._make_wrapper_subclass(
            cls, local.shape, strides=local.stride(), dtype=local.dtype, device=torch.device(NAME, 0)
        )
        found.local = local
        return found

    def numpy(self, **_: Any) -> Any:
        raise TypeError("a tensor on another device has no numpy(): copy it to the CPU first")

    def tolist(self) -> Any:
        return self.local.tolist()

    def __repr__(self) -> str:
        return f"Remote({self.local!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """While it is active, tensors can be made on the device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not let torch import its compiler, which takes seconds, to keep it away from here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU, and return its results on the device where they would be."""
    tensors = [*_tensors(args[:1]), *_tensors(args[1 + (func in _INDEXED) :]), *_tensors(kwargs.values())]
    remote = any(isinstance(value, Remote) for value in tensors)
    here = [value for value in tensors if not isinstance(value, Remote) and value.ndim]
    if remote and here and func not in _COPIES:
        raise RuntimeError(f"{func} mixes devices: the CPU has tensors of shapes {[tuple(t.shape) for t in here]}")
    if kwargs.get("device") is not None:
        remote = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is _aten._efficientzerotensor.default:  # which has no memory, and cannot be wrapped
        func = _aten.zeros.default
    out = func(*map(_local, args), **{name: _local(value) for name, value in kwargs.items()})
    if func is _aten._local_scalar_dense.default:
        return out
    if func._schema.is_mutable and isinstance(args[0], Remote):
        return args[0]
    return _remote(out) if remote else out


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments; torch.utils._pytree does it in ten times the time."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _local(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_local, value))
    return value.local if isinstance(value, Remote) else value


def _remote(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_remote, value))
    return Remote(value) if isinstance(value, Tensor) else value


def _register() -> torch.library.Library:
    """Register the device, and the kernels that torch calls below the dispatch to Python."""
    answers = {"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0}
    answers |= {"_is_in_bad_fork": False, "get_amp_supported_dtype": [torch.bfloat16], "manual_seed_all": None}
    functions = {name: lambda *_, answer=answer: answer for name, answer in answers.items()}
    _setup_privateuseone_for_python_backend(NAME, SimpleNamespace(**functions))
    kernels = torch.library.Library("aten", "IMPL")

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Remote:
        return Remote(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        _local(target).copy_(_local(source))
        return target

    kernels.impl("empty_strided", empty_strided, "PrivateUse1")
    kernels.impl("_copy_from", copy_from, "PrivateUse1")
    return kernels


def weights(*shape: int) -> Tensor:
    """Return weights on the device, some of them zero."""
    return weights_here(*shape).to(NAME)


def points(count: int, dim: int = 2) -> Tensor:
    return torch.rand(count, dim).to(NAME)


def solved(geometry: Geometry, solver: Any = None, *, eps: float = 0.05, batch: tuple[int, ...] = ()) -> None:
    """Solve a problem, and use all parts of the solution."""
    n, m = geometry.shape
    problem = metaot.Problem(weights(*batch, n), weights(*batch, m), geometry, eps)
    solution = metaot.solve(problem, solver=solver, tol=1e-3)
    used = [*vars(solution.potentials).values(), solution.error, solution.converged, solution.steps]
    used += [solution.value, solution.cost(), solution.plan(), *vars(solution.bounds()).values()]
    if geometry.points is not None:
        used.append(solution.transport())
    assert all(isinstance(value, Remote) for value in used if isinstance(value, Tensor))
    assert float(solution.error.max()) <= 1e-3
    metaot.solve(problem, init=solution.potentials, solver=solver, tol=1e-3)


def relaxed(solver: Any, *prices: Any) -> None:
    """Solve a problem whose marginals have a price, and use all parts of the solution."""
    grid = Grid(7, 6)
    problem = metaot.Problem(weights(2, 42), 0.5 * weights(2, 42), grid, 0.05, prices)
    solution = metaot.solve(problem, solver=solver, tol=1e-3)
    used = [
        solution.potentials.f,
        solution.error,
        solution.value,
        solution.cost(),
        solution.mass(),
        solution.gap(),
    ]
    assert all(isinstance(value, Remote) for value in used)
    assert float(solution.error.max()) <= 1e-3
    metaot.solve(problem, init=solution, tol=1e-3)


def handed_over() -> None:
    """Solve at an eps where Newton takes over, after fewer steps than elsewhere."""
    with patch.object(method, "SINKHORN_FIRST", 10):
        solved(Grid(6, 5), eps=1e-3)


def solved_by_clusters() -> None:
    """Solve between clouds coarse to fine, with clusters of fewer atoms than elsewhere."""
    with patch.object(method, "_PAIRS", 2**14), patch.object(method, "_COARSEST", 20):
        solved(Points(points(150), points(140)), batch=(2,))


def shipped(name: str) -> Any:
    """Return a shipped predictor on the device."""
    predictor = metaot.load(f"checkpoints/{name}")
    predictor.model.to(NAME)
    return predictor


def predicted(name: str, problem: metaot.Problem) -> None:
    """Predict by a shipped model, and start from the prediction."""
    predictor = shipped(name)
    assert isinstance(predictor.predict(problem).f, Remote)
    assert float(metaot.solve(problem, init=predictor, tol=1e-3).error.max()) <= 1e-3


def costs_read() -> None:
    """Predict by a network that reads costs, some of them forbidden."""
    model = CostNetwork(width=2, hidden=2, shares=[1], rounds=[2], cells=4, rows=2)
    C = torch.rand(2, 9, 20)
    C[0, 2] = torch.tensor([torch.inf, 1.0]).repeat(10)
    problem = metaot.Problem(weights(2, 9), weights(2, 20), Dense(C.to(NAME)), 0.1)
    found = CostPotential(single(model).requires_grad_(False).to(NAME)).predict(problem)
    assert isinstance(found.f, Remote)


def shipped_sphere() -> None:
    predictor = shipped("sphere")
    geometry = predictor.geometry.to(torch.zeros((), device=NAME))
    n, m = geometry.shape
    problem = metaot.Problem(weights(1, n), weights(1, m), geometry, predictor.eps[0])
    assert isinstance(predictor.predict(problem).g, Remote)


def images(side: int) -> metaot.Problem:
    return metaot.Problem(weights(2, side**2), weights(2, side**2), Grid(side, side), 1e-2)


def clouds() -> metaot.SampleProblem:
    return metaot.SampleProblem(*(points(count, 3).expand(2, -1, -1) for count in (200, 150)))


def mapped(solver: Any, init: Any = None) -> None:
    """Fine-tune maps, and use all parts of the solution."""
    problem = clouds()
    solution = metaot.solve(problem, init=init, solver=solver)
    used = [solution.transport(), solution.value, solution.error, solution.history, solution.pair.pull(problem.y)]
    assert all(isinstance(value, Remote) for value in used)


def palette() -> None:
    predictor = shipped("palette")
    mapped(metaot.GaussNewton(1), predictor)
    assert isinstance(predictor.predict(clouds()[0]).push(points(5, 3)), Remote)


def gradient() -> None:
    problem = images(8)
    a = problem.a.detach().requires_grad_()
    metaot.ot_value(replace(problem, a=a)).sum().backward()
    assert isinstance(a.grad, Remote)


def averaged(average: Any, init: Any = None) -> None:
    """Average measures on a grid, and use all parts of the answer."""
    problem = images(8)
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64).to(NAME)
    found = average(problem.a, weights, problem.geometry, 0.05, init=init, tol=1e-3)
    used = [found.image, found.error, found.self_error, found.divergences, found.value, found.steps]
    assert all(isinstance(value, Remote) for value in [*used, *vars(found.potentials).values()])
    assert bool(found.converged.all())
    average(problem.a, weights[0], problem.geometry, 0.05, init=found[0], tol=1e-3)


def averaged_clouds() -> None:
    clouds = [points(20), (points(15), torch.full((15,), 1 / 15).to(NAME))]
    found = free_barycenter(clouds, [0.4, 0.6], 10, eps=0.1, learn_measure=True, max_steps=5)
    assert isinstance(found.points, Remote)
    assert isinstance(found.measure, Remote)


def divergences() -> None:
    """Differentiate a divergence and a loss, and make a matrix of distances."""
    problem, x, y = images(6), points(12), points(9)
    a, x = (leaf.detach().requires_grad_() for leaf in (problem.a, x))
    losses.sinkhorn_divergence(replace(problem, a=a), tol=1e-4).sum().backward()
    loss = losses.SinkhornLoss(0.1)
    (loss(x, y) + loss(x, y)).backward()
    assert isinstance(a.grad, Remote)
    assert isinstance(x.grad, Remote)
    assert isinstance(losses.pairwise(problem.a, Grid(6, 6), 0.1), Remote)


def sent_beyond() -> None:
    """Send new points, by means of vectors, of directions, and by the slope of a cost of one's own."""
    x, y = points(12), points(9)
    for cost in ("sqeuclidean", "cosine", LpPower(3.0), lambda x, y: (x[:, None] - y).square().sum(-1)):
        problem = metaot.Problem(weights(2, 12), weights(2, 9), Points(x, y, cost), 0.5)
        sent = metaot.solve(problem, tol=1e-2).map()
        assert isinstance(sent.push(points(5)), Remote)
        assert isinstance(sent.pull(points(5)), Remote)


def paired(**settings: Any) -> None:
    """Pair points, and use all parts of the coupling."""
    x, y = points(14, 3), points(14, 3)
    found = metaot.couple(x, y, **settings)
    used = [*found, found.cost, found.independent_cost, found.lower, found.eps]
    if settings.get("eps") != 0:
        used += [found.entropy, found.plan()]
    assert all(isinstance(value, Remote) for value in used)
    assert found.converged


def aligned() -> None:
    """Find plans between spaces, with and without entropy, by moments and by matrices."""
    x, y = points(6, 3), points(6, 3)
    matrices = Dense(torch.cdist(x, x)), Dense(torch.cdist(y, y))
    for spaces, settings in (((x, y), {}), ((x, y), {"eps": 1.0}), (matrices, {"eps": 0.5}), (matrices, {})):
        found = gromov_wasserstein(*spaces, starts=1, max_steps=3, tol=0.1, **settings)
        assert all(isinstance(value, Remote) for value in (found.value, found.values, found.plan()))
    more = {"features": torch.rand(6, 5).to(NAME), "alpha": 0.5, "init": found.plan()[:, :5]}
    features = gromov_wasserstein(x, y[:5], starts=0, max_steps=3, **more)
    assert isinstance(features.plan(), Remote)


def costs_learned() -> None:
    """Costs of pairs are learned where these are, with and without penalties and prices."""
    x = torch.randn(20, 2).to(NAME)
    y = 0.5 * x + torch.randn(20, 2).to(NAME)
    for settings in ({}, {"penalty": L1(0.1)}, {"penalty": Nuclear(0.1)}, {"marginals": metaot.KL(1.0)}):
        found = learn_cost(x, y, eps=1.0, tol=1e-2, **settings)
        assert isinstance(found.theta, Remote)
        assert isinstance(found.hessian, Remote)
    assert isinstance(learn_cost(x, y, eps=1.0, tol=1e-2).bootstrap(2), Remote)


def learned() -> None:
    """Learn costs from covariances, and surpluses from counts, and use all parts of the answers."""
    one = torch.eye(3, dtype=torch.float64).to(NAME)
    pair = inverse.Gaussians(one, 2 * one, 0.5)
    S, plan = pair.cross_covariance(one), pair.unbalanced(0.3 * one, 1.0)
    found = inverse.learn_cost_from_covariances(one, 2 * one, S, eps=0.5, penalty=inverse.L1(0.1), tol=1e-4)
    used = [*pair.sample(one, 4), *plan, pair.theta(S), pair.value(one), pair.hessian(one), found.theta]
    counts, ones = torch.ones(3, 3, dtype=torch.float64).to(NAME), torch.ones(3, dtype=torch.float64).to(NAME)
    estimate = inverse.learn_surplus(counts, ones, ones, features=[counts, one], tol=1e-4)
    used += [estimate.surplus, estimate.couples, *estimate.singles, estimate.standard_errors]
    used += [inverse.surplus(counts, ones, ones), found.certificate.z]
    assert all(isinstance(value, Remote) for value in used)


def moving() -> None:
    """Learn potentials of a population by all losses, with penalties and of Gaussians."""
    clouds = [points(8) * 0.9**k for k in range(2)]
    features = {"features": [Monomials(2, 2), torch.sin], "interaction": lambda z: z.square().sum(1).square()}
    for settings in ({}, {"eps": 0.1, "sharpen": 5.0}, {"penalty": L1(0.1)}, {**features, "ridge": None}):
        found = learn_potential(clouds, tau=0.1, **settings)
        assert all(
            isinstance(z, Remote) for z in (found.theta, found.drift(points(3)), found.potential(points(3)))
        )
    found = learn_potential(GaussianSnapshots.of(clouds), tau=0.1, scheme="flow", penalty=Nuclear(0.1))
    assert isinstance(found.certificate.z, Remote)


def trained(name: str, **changes: Any) -> None:
    """Make a training step of a small recipe, and measure the model."""
    recipe = replace(RECIPES[name](), steps=2, validation_batch=1, device=NAME, **changes)
    with patch.object(tasks, "_SAMPLES", 50), patch.object(distance, "_RELATIVE_EPS", 0.1):
        task = recipe.task(recipe, None, torch.device(NAME))
    state = _new_state(recipe, task, torch.device(NAME))
    before = [weight.detach().clone() for weight in state.model.parameters()]
    _update(state, task, task.predictor(state.model), Processes())
    after = list(state.model.parameters())
    assert all(isinstance(weight.data, Remote) for weight in after)
    assert any(bool((old != new).any()) for old, new in zip(before, after, strict=True))
    task.measure(task.predictor(state.average))


def populations() -> None:
    """Train on few points: those that are embedded are many."""
    few = partial(snapshots.splitting, count=40, times=2)
    with patch.object(snapshots, "splitting", few):
        trained("populations", data=snapshots.Snapshots(batch=4, eps=0.0))


def distances() -> None:
    """Measure slices, lines and circles with all derivatives."""
    for p, period in ((1.0, None), (2.0, None), (2.0, 1.0)):
        parts = [points(6)[:, 0], points(8)[:, 0], weights(6), weights(8)]
        for count in (2, 4):
            leaves = [part.detach().requires_grad_() for part in parts[:count]]
            losses.wasserstein_1d(*leaves, p=p, period=period).backward()
            assert all(isinstance(leaf.grad, Remote) for leaf in leaves)
    x = points(6, 3).requires_grad_()
    found = losses.sliced_estimate(x, points(8, 3), weights(6), weights(8), directions=12)
    found.value.backward()
    assert all(isinstance(value, Remote) for value in (*found[:3], x.grad))
    assert isinstance(losses.max_sliced_wasserstein(x, points(6, 3)), Remote)


SMALL = {"first": {"width": 16, "hidden": 8, "modes": 4, "moments": 4}, "hidden": 8, "modes": 4}
CASES: dict[str, Callable[[], None]] = {
    "grid": lambda: solved(Grid(12, 9), batch=(2,)),
    "grid, from Sinkhorn to Newton": handed_over,
    "grid, plain Sinkhorn": lambda: solved(Grid(9, 8), metaot.Sinkhorn(accelerated=False)),
    "grid, Newton": lambda: solved(Grid(9, 8), metaot.Newton(), batch=(2,)),
    "points": lambda: solved(Points(points(30), points(40)), batch=(2,)),
    "points, coarse to fine": solved_by_clusters,
    "points, euclidean": lambda: solved(Points(points(30), points(40), "euclidean")),
    "points, on the sphere": lambda: solved(Points(on_sphere(30).to(NAME), on_sphere(40).to(NAME), "sphere")),
    "points, a function": lambda: solved(
        Points(points(30), points(40), lambda x, y: (x[:, None] - y).abs().sum(-1))
    ),
    "dense": lambda: solved(Dense(torch.rand(20, 30).to(NAME)), batch=(2,)),
    "dense, Newton": lambda: solved(Dense(torch.rand(20, 30).to(NAME)), metaot.Newton(), eps=1e-3),
    "unbalanced": lambda: relaxed(None, metaot.KL(0.1), metaot.KL(torch.tensor([0.1, 1.0]).to(NAME))),
    "unbalanced, Newton": lambda: relaxed(metaot.Newton(), metaot.KL(0.1), metaot.KL(0.2)),
    "unbalanced, partial": lambda: relaxed(None, metaot.TV(0.1), metaot.KL(0.2)),
    "potentials of populations": moving,
    "potentials of populations, a network": populations,
    "maps, W2GN": lambda: mapped(metaot.W2GN(3, record=(0, 3))),
    "maps, W2GN, the exact loss": lambda: mapped(metaot.W2GN(3, objective=brenier_loss), BuresStart()),
    "maps, GaussNewton": lambda: mapped(metaot.GaussNewton(2, linear=True, record=(0, 2))),
    "maps, from the Gaussian map by W2GN": lambda: mapped(metaot.W2GN(2), BuresStart()),
    "pairs": paired,
    "pairs, exact": lambda: paired(eps=0),
    "pairs, weights and classes": lambda: paired(
        a=weights(14) + 1, classes=torch.arange(14).to(NAME) // 7, cost="euclidean"
    ),
    "plans between spaces": aligned,
    "costs of pairs": costs_learned,
    "costs of Gaussians, and surpluses": learned,
    "mnist": lambda: predicted("mnist", images(28)),
    "universal": lambda: predicted("universal", images(20)),
    "universal, on a coarser grid": lambda: predicted("universal", images(64)),
    "sphere": shipped_sphere,
    "palette": palette,
    "a network that reads costs": costs_read,
    "gradient of the value": gradient,
    "entropic maps": sent_beyond,
    "distances in one dimension and of slices": distances,
    "barycenter, entropic": lambda: averaged(entropic_barycenter),
    "barycenter, from predictions": lambda: averaged(barycenter, shipped("universal")),
    "barycenter, free points": averaged_clouds,
    "divergences, a loss and a matrix of distances": divergences,
    "training: images": lambda: trained("shapes", data=Shapes(8, (0.1, 0.1)), model_settings=SMALL),
    "training: universal": lambda: trained(
        "universal",
        data=Drawings(batch=4, eps=(0.1, 0.1)),
        model_settings={"modes": 4, "width": 16, "hidden": 16, "depth": 1, "correction": 8},
    ),
    "training: groups": lambda: trained(
        "sphere", data=Sphere(batch=2, suppliers=8, customers=60, world="synthetic", eps=(0.2, 0.2))
    ),
    "training: any space": lambda: trained(
        "sphere",
        data=Sphere(batch=2, suppliers=10, customers=40, world="synthetic", eps=(0.2, 0.2)),
        model=ModalPotential,
        task=DiscreteTask,
        model_settings={"modes": 4, "width": 16, "hidden": 16, "depth": 1, "correction": 8},
    ),
    "training: maps": lambda: trained(
        "palettes", data=Palettes(batch=2, samples=64), model_settings={"hidden": [8], "features": 16, "width": 16}
    ),
}


CHECKED = """
import runpy, sys
from jaxtyping import install_import_hook
install_import_hook("metaot", "beartype.beartype")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def main() -> None:
    """Run all cases, and write the error of each one, or null."""
    _kernels = _register()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    errors: dict[str, str | None] = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        try:
            with OnDevice():
                case()
            errors[name] = None
        except Exception:  # whatever it is, the test shows it
            errors[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(errors))


def test_all_cases_stay_on_the_device() -> None:
    """One test, in a process of its own: as one for each case, every worker of pytest would run all of them."""
    folder = Path(__file__).parents[1]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tests'}"}
    command = [sys.executable, "-c", CHECKED, __file__]
    output = subprocess.run(command, check=True, cwd=folder, env=settings, stdout=subprocess.PIPE).stdout
    errors: dict[str, str | None] = json.loads(output)
    assert list(errors) == list(CASES)
    assert not any(errors.values()), "\n".join(f"{name}: {error}" for name, error in errors.items() if error)


if __name__ == "__main__":
    main()
