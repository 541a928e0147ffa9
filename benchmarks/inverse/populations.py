"""Potentials of moving populations: the fifteen of JKOnet*, and Gaussian ones, sparse and of rank one.

Fifteen potentials (Terpin, Lanzetti, Gadea and Doerfler, arXiv 2406.12616, experiment 4.1): x_{t+1} = x_t - tau
grad V(x_t), tau 0.01, five steps, 2000 particles that begin evenly in [-4, 4]^2, in random order at every time.
The baseline is the linear variant of that paper, written anew with its released settings: exact couplings by
`ot.emd`, gradients at the old positions, monomials of degrees up to four in each coordinate and ten radial
functions a coordinate, exp(-|x - c|^2 / 0.5), ridge 0.01. The error of a gradient is its L2-UVP in percent, at new
particles; where the truth is constant, the mean square. The one-step distance is W_1 between 500 new particles and
what x - tau grad V predicts of them. "separate": other particles at each time.

Gaussian populations (arXiv 2505.07124): V = x^T theta x, six times, tau 0.1, from N(2, sigma^2): wrong positions
and relative errors against the number of samples, with lambda = c sqrt(log n / n), and the certificate of the
limit r -> infinity; drawn in benchmarks/results/inverse-populations.png. All in float64, on one thread, whose own
seconds are counted.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, median
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inverse._potentials import POTENTIALS, gradient
from benchmarks.inverse._recovery import draw
from metaot.inverse import L1, Basis, GaussianSnapshots, Monomials, Nuclear, Radial, learn_potential

OUT = Path("benchmarks/results/inverse-populations.json")
COUNT, NEW, STEPS, TAU, SEED = 2000, 500, 5, 0.01, 20261130
DEGREE, BUMPS, EDGE, WIDTH, RIDGE = 4, 10, 4.0, 0.5, 0.01
PER_AXIS, EXACT = 12, 1e-12
"""Bumps a coordinate of our own features, and the ridge; "same features" has the baseline's."""
BETTER, FASTER = 12, 0.1
"""Floors: potentials of fifteen on which neither error is worse, and time over the baseline's."""
SLACK = 1e-6
"""Errors below this, in the units of each table, are rounding: no method is better."""

DIM, TIMES, STEP, MEAN = 10, 6, 0.1, 2.0
SIGMAS, SAMPLES, DRAWS = (0.3, 1.0), (300, 1000, 3000, 10_000, 30_000, 100_000), 20
LOSSES = {"gradients": None, "values": math.inf}
LAMBDAS = {(0.3, "gradients"): 0.5, (0.3, "values"): 0.03, (1.0, "gradients"): 5.0, (1.0, "values"): 2.5}
"""c in lambda = c sqrt(log n / n), chosen by hand for n = 10000."""
ANGLES, NARROW, RANK_SAMPLES, RANK_LAMBDAS = 13, 0.1, 10_000, {"gradients": 1.0, "values": 0.1}
"""Of rank one: angles of theta and the long axis of the population, the variance of other axes, n and c."""

Row = dict[str, Any]


def trajectory(potential: Callable[[Tensor], Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """Return the positions of particles at all times."""
    found = [2 * EDGE * torch.rand(count, 2, generator=generator, dtype=torch.float64) - EDGE]
    for _ in range(STEPS):
        found.append((found[-1] - TAU * gradient(potential, found[-1])).detach())
    return found


def shuffled(clouds: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    return [cloud[torch.randperm(len(cloud), generator=generator)] for cloud in clouds]


_POWERS = torch.tensor([each for each in product(range(DEGREE + 1), repeat=2) if sum(each)])
_CENTRES = torch.cartesian_prod(*[torch.linspace(-EDGE, EDGE, BUMPS, dtype=torch.float64)] * 2)


def basis(x: Tensor) -> Tensor:
    """Return the features of the baseline."""
    powers = torch.stack([x**k for k in range(DEGREE + 1)], -1)
    monomials = powers[:, 0, _POWERS[:, 0]] * powers[:, 1, _POWERS[:, 1]]
    return torch.cat([monomials, (-torch.cdist(x, _CENTRES).square() / WIDTH).exp()], 1)


def basis_slopes(x: Tensor) -> Tensor:
    """Return their gradients, k 2 p."""
    powers = torch.stack([x**k for k in range(DEGREE + 1)], -1)
    inner = torch.stack([torch.zeros_like(x), *(k * x ** (k - 1) for k in range(1, DEGREE + 1))], -1)
    first, second = _POWERS.mT
    bumps = (-torch.cdist(x, _CENTRES).square() / WIDTH).exp() * (-2 / WIDTH)
    along = [inner[:, 0, first] * powers[:, 1, second], powers[:, 0, first] * inner[:, 1, second]]
    return torch.stack([torch.cat([along[k], bumps * (x[:, k, None] - _CENTRES[:, k])], 1) for k in range(2)], 1)


class Same(Basis):
    """The features of the baseline, for `learn_potential`."""

    def __call__(self, x: Tensor) -> Tensor:
        return basis(x)

    def slopes(self, x: Tensor) -> Tensor:
        return basis_slopes(x)


def baseline(clouds: Sequence[Tensor]) -> tuple[Callable[[Tensor], Tensor], float, float]:
    """Return the gradient by the linear variant of JKOnet*, and the seconds of couplings and of the fit."""
    import ot  # noqa: PLC0415

    start, pairs = process_time(), []
    for x, y in pairwise(clouds):
        plan = ot.emd([], [], ot.dist(x.numpy(), y.numpy()), numItermax=1_000_000)
        i, j = np.nonzero(plan > 1 / (10 * len(x)))
        pairs.append((x[i], y[j], torch.from_numpy(plan[i, j])))
    coupled = process_time()
    A, b = RIDGE * torch.eye(len(_POWERS) + len(_CENTRES), dtype=torch.float64), 0.0
    for old, new, weights in pairs:
        J = basis_slopes(old)
        flat = J.flatten(0, 1)
        A = A + flat.mT @ flat / len(old)
        b = b + flat.mT @ (weights[:, None] * (new - old)).flatten()
    theta = -torch.linalg.solve(A, b) / TAU
    return lambda x: basis_slopes(x) @ theta, coupled - start, process_time() - coupled


def ours(clouds: Sequence[Tensor], features: Any, **settings: Any) -> tuple[Callable[[Tensor], Tensor], float]:
    """Return the gradient that is learned, and the seconds of all; `features` None for our own."""
    start = process_time()
    features = own_features(clouds) if features is None else features
    found = learn_potential(clouds, tau=TAU, features=features, scheme="explicit", **settings)
    return lambda x: -found.drift(x), process_time() - start


def own_features(clouds: Sequence[Tensor]) -> list[Any]:
    return [Monomials(2, DEGREE), Radial.on(torch.cat(list(clouds)), PER_AXIS)]


def errors(potential: Any, found: Callable[[Tensor], Tensor], new: Sequence[Tensor]) -> Row:
    """Return the error of the gradient, and the mean one-step distance."""
    import ot  # noqa: PLC0415

    at = torch.cat(list(new[:-1]))
    truth = gradient(potential, at)
    scale = float(truth.var(0).sum())
    off = float((found(at) - truth).square().sum(1).mean())
    distances = []
    for x, y in pairwise(new):
        cost = ot.dist((x - TAU * found(x)).numpy(), y.numpy(), metric="euclidean")
        distances.append(float(ot.emd2([], [], cost, numItermax=1_000_000)))
    return {"gradient": 100 * off / (scale if scale > SLACK else 1.0), "one step": mean(distances)}


def fifteen() -> list[Row]:
    rows = []
    for k, (name, potential) in enumerate(POTENTIALS.items()):
        generator = torch.Generator().manual_seed(SEED + k)
        clouds = shuffled(trajectory(potential, COUNT, generator), generator)
        new = trajectory(potential, NEW, generator)
        ours(clouds, None, ridge=EXACT)
        found, coupled, fitted = baseline(clouds)
        row: Row = {"potential": name, "baseline": errors(potential, found, new)}
        row["baseline"] |= {"seconds": coupled + fitted, "couplings": coupled}
        for label, features in (("ours", None), ("same features", Same())):
            found, seconds = ours(clouds, features, ridge=EXACT)
            row[label] = errors(potential, found, new) | {"seconds": seconds}
            row[label]["time"] = seconds / row["baseline"]["seconds"]
        rows.append(row)
        print(name, {key: value for key, value in row.items() if key != "potential"}, flush=True)
    return rows


def not_worse(row: Row, label: str) -> bool:
    return all(row[label][error] <= row["baseline"][error] + SLACK for error in ("gradient", "one step"))


def mean_rank(rows: list[Row], error: str, label: str, labels: Sequence[str]) -> float:
    """Return the mean over potentials of how many methods are better, and of half of those that are alike."""
    ranks = []
    for row in rows:
        others = [row[other][error] for other in labels if other != label]
        own = row[label][error]
        ranks.append(
            1 + sum(each < own - SLACK for each in others) + 0.5 * sum(abs(each - own) <= SLACK for each in others)
        )
    return mean(ranks)


def separate() -> list[Row]:
    """Learn from other particles at each time, as where to observe them is to destroy them."""
    rows = []
    for k, name in enumerate(("styblinski_tang", "oakley_ohagan", "double_exponential", "flowers")):
        potential, generator = POTENTIALS[name], torch.Generator().manual_seed(SEED + 100 + k)
        clouds = [trajectory(potential, COUNT, generator)[time] for time in range(STEPS + 1)]
        new = trajectory(potential, NEW, generator)
        row: Row = {"potential": name, "baseline": errors(potential, baseline(clouds)[0], new)}
        for eps in (None, 0.1, 0.3):
            row[f"eps {eps or 'none'}"] = errors(
                potential, ours(clouds, Monomials(2, DEGREE), eps=eps, ridge=None)[0], new
            )
        rows.append(row)
        print(row, flush=True)
    return rows


def circle() -> Tensor:
    """Return a sparse theta: a multiple of the identity and the Laplacian of a circle."""
    eye = torch.eye(DIM, dtype=torch.float64)
    return 0.25 * (2.2 * eye - eye.roll(1, 0) - eye.roll(-1, 0))


def flowing(theta: Tensor, m: Tensor, S: Tensor) -> GaussianSnapshots:
    """Return the moments of the flow of x^T theta x at all times."""
    maps = [torch.linalg.matrix_exp(-2 * k * STEP * theta) for k in range(TIMES)]
    return GaussianSnapshots(torch.stack([E @ m for E in maps]), torch.stack([E @ S @ E.mT for E in maps]))


def drawn(population: GaussianSnapshots, count: int, generator: torch.Generator) -> GaussianSnapshots:
    """Return the moments of separate samples at each time."""
    clouds = []
    for m, S in zip(population.means, population.covariances, strict=True):
        noise = torch.randn(count, len(m), generator=generator, dtype=torch.float64)
        clouds.append(m + noise @ torch.linalg.cholesky(S).mT)
    return GaussianSnapshots.of(clouds)


def learned(snapshots: GaussianSnapshots, loss: str, penalty: Any) -> Any:
    return learn_potential(snapshots, tau=STEP, scheme="flow", sharpen=LOSSES[loss], penalty=penalty)


def sparse() -> list[Row]:
    """Recover the support of theta: wrong positions and errors against the number of samples."""
    theta, rows = circle(), []
    for sigma, loss in product(SIGMAS, LOSSES):
        population = flowing(
            theta, MEAN * torch.ones_like(theta[0]), sigma**2 * torch.eye(DIM, dtype=torch.float64)
        )
        certificate = learned(population, loss, L1(1.0)).certificate_at(theta).largest
        for count in SAMPLES:
            generator, wrong, off, plain = torch.Generator().manual_seed(SEED + count), [], [], []
            for _ in range(DRAWS):
                seen = drawn(population, count, generator)
                penalty = L1(LAMBDAS[sigma, loss] * math.sqrt(math.log(count) / count))
                found = learned(seen, loss, penalty).theta
                wrong.append(int(((found != 0) != (theta != 0)).sum()))
                off.append(float((found - theta).norm() / theta.norm()))
                plain.append(float((learned(seen, loss, None).theta - theta).norm() / theta.norm()))
            about = {"sigma": sigma, "loss": loss, "n": count, "certificate": certificate}
            rows.append({**about, "wrong": mean(wrong), "exact": sum(k == 0 for k in wrong), "error": mean(off)})
            rows[-1] |= {"error without penalty": mean(plain), "theory": math.sqrt(math.log(count) / count)}
            print(rows[-1], flush=True)
    return rows


def rank_one() -> list[Row]:
    """Recover theta = u u^T while the long axis of the population turns away from u."""
    u, v = (torch.eye(DIM, dtype=torch.float64)[k] for k in range(2))
    theta, rows = torch.outer(u, u), []
    for angle, loss in product(torch.linspace(0, math.pi / 2, ANGLES).tolist(), LOSSES):
        axis = math.cos(angle) * u + math.sin(angle) * v
        S = NARROW * torch.eye(DIM, dtype=torch.float64) + torch.outer(axis, axis)
        population = flowing(theta, torch.zeros_like(u), S)
        largest = learned(population, loss, Nuclear(1.0)).certificate_at(theta).largest
        generator, ranks, off = torch.Generator().manual_seed(SEED), [], []
        for _ in range(DRAWS):
            seen = drawn(population, RANK_SAMPLES, generator)
            lam = RANK_LAMBDAS[loss] * math.sqrt(math.log(RANK_SAMPLES) / RANK_SAMPLES)
            found = learned(seen, loss, Nuclear(lam)).theta
            ranks.append(int((torch.linalg.svdvals(found) > 1e-6).sum()))
            off.append(float((found - theta).norm()))
        rows.append({"angle": angle, "loss": loss, "certificate": largest, "rank one": sum(k == 1 for k in ranks)})
        rows[-1] |= {"error": mean(off)}
        print(rows[-1], flush=True)
    return rows


def steps_of_time() -> Row:
    """Return the relative errors of theta from moments of a flow and of JKO's steps, by the scheme."""
    theta = circle()
    flow = flowing(theta, MEAN * torch.ones_like(theta[0]), torch.eye(DIM, dtype=torch.float64))
    J = torch.linalg.inv(torch.eye(DIM, dtype=torch.float64) + 2 * STEP * theta)
    maps = [torch.linalg.matrix_power(J, k) for k in range(TIMES)]
    jko = GaussianSnapshots(torch.stack([E @ flow.means[0] for E in maps]), torch.stack([E @ E.mT for E in maps]))
    return {
        name: {
            scheme: float((learn_potential(seen, tau=STEP, scheme=scheme).theta - theta).norm() / theta.norm())
            for scheme in ("jko", "explicit", "trapezoid", "flow")
        }
        for name, seen in (("flow", flow), ("JKO", jko))
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = fifteen()
    labels = ("baseline", "same features", "ours")
    ranks = {
        error: {label: mean_rank(rows, error, label, labels) for label in labels}
        for error in ("gradient", "one step")
    }
    results = {
        "particles": COUNT,
        "fifteen": rows,
        "not worse": {label: sum(not_worse(row, label) for row in rows) for label in labels[1:]},
        "mean ranks": ranks,
        "time": {label: median(row[label]["time"] for row in rows) for label in labels[1:]},
        "all times": {
            label: sum(row[label]["seconds"] for row in rows) / sum(row["baseline"]["seconds"] for row in rows)
            for label in labels[1:]
        },
        "separate": separate(),
        "steps of time": steps_of_time(),
        "sparse": sparse(),
        "rank one": rank_one(),
        "draws": DRAWS,
        "floors": {"not worse": BETTER, "time": FASTER},
    }
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, OUT.with_suffix(".png"))
    for name in ("not worse", "mean ranks", "time", "all times", "steps of time"):
        print(name, results[name])


if __name__ == "__main__":
    main()
