"""Is the support of a sparse cost found exactly? Circular, planar and random graphs, beside their certificates.

The truth is theta = 0.1 I + the Laplacian of a graph, between standard Gaussians. Draws are n pairs of its plan
at eps; lam = c sqrt(log(n)/n). `learn_cost` sees the pairs; `learn_cost_from_covariances` sees their covariances,
which are drawn as such (by Bartlett's decomposition), so that n costs nothing. A draw counts if exactly the edges
and the diagonal are not zero.
"""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from metaot.inverse import L1, Gaussians, learn_cost, learn_cost_from_covariances

OUT = Path("benchmarks/results/inverse-graphs.json")
EPS = (0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
PAIRS = (1000, 3000, 10_000, 30_000)
FACTOR, FACTORS, SMALL = 1.75, (1.75, 2.0), (1.35,)
"""c of curves over eps, those that are counted in more draws at one eps, and that of few pairs."""
DRAWS, DRAWS_OF_CURVES, TOL, SEED = 100, 25, 1e-5, 20261130
SAMPLED = (("circle", 20, 3.0, 2000, 100), ("circle", 20, 3.0, 1000, 20))
"""Graphs, their sizes, eps, pairs and draws of the fits that see the pairs."""
LARGE = (("circle", 50), ("planar", 49), ("random", 50))
CERTIFIED = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
FLOOR, WORKERS = 95, 2

Row = dict[str, Any]


def circle(dim: int) -> Tensor:
    one = torch.eye(dim, dtype=torch.float64).roll(1, 0)
    return one + one.mT


def planar(dim: int) -> Tensor:
    side = math.isqrt(dim)
    line = torch.ones(side - 1, dtype=torch.float64).diag(1)
    line, one = line + line.mT, torch.eye(side, dtype=torch.float64)
    return torch.kron(line, one) + torch.kron(one, line)


def random(dim: int) -> Tensor:
    """Return a graph of Erdos and Renyi with a mean degree of three, the first connected one."""
    generator = torch.Generator().manual_seed(0)
    while True:
        edges = (torch.rand(dim, dim, generator=generator, dtype=torch.float64) < 3 / (dim - 1)).double().triu(1)
        edges = edges + edges.mT
        if bool((torch.linalg.matrix_power(edges + torch.eye(dim).double(), dim) > 0).all()):
            return edges


GRAPHS = {"circle": circle, "planar": planar, "random": random}


def truth(graph: str, dim: int) -> Tensor:
    edges = GRAPHS[graph](dim)
    return 0.1 * torch.eye(dim, dtype=torch.float64) + edges.sum(1).diag() - edges


def between(theta: Tensor, eps: float) -> Gaussians:
    one = torch.eye(len(theta), dtype=torch.float64)
    return Gaussians(one, one, eps)


def largest_off(theta: Tensor, eps: float) -> float:
    """Return the certificate of the truth: the largest |z| off its support."""
    on = theta.flatten() != 0
    basis = torch.eye(theta.numel(), dtype=theta.dtype)[on].view(-1, *theta.shape)
    H = between(theta, eps).product(theta, basis).flatten(1)
    z = H.mT @ torch.linalg.solve(H[:, on], theta.flatten()[on].sign())
    return float(z[~on].abs().max())


def covariances(C: Tensor, pairs: int, generator: torch.Generator) -> Tensor:
    """Return the covariance of so many centred draws from N(0, C)."""
    size, free = len(C), pairs - 1
    lower = torch.randn(size, size, generator=generator, dtype=torch.float64).tril(-1)
    degrees = free - torch.arange(size, dtype=torch.float64)
    chi = torch._standard_gamma(degrees / 2, generator=generator).mul(2).sqrt()
    L = torch.linalg.cholesky(C) @ (lower + chi.diag())
    return L @ L.mT / pairs


def found_exactly(theta: Tensor, estimate: Tensor) -> bool:
    return bool(((estimate != 0) == (theta != 0)).all())


def recovered(
    graph: str, dim: int, eps: float, pairs: int, *, factors: tuple[float, ...], draws: int
) -> list[Row]:
    """Count the draws whose support is found exactly from covariances, for each c."""
    theta, generator = truth(graph, dim), torch.Generator().manual_seed(SEED)
    pair, one = between(theta, eps), torch.eye(dim, dtype=torch.float64)
    S = pair.cross_covariance(theta)
    C = torch.cat([torch.cat([one, S], 1), torch.cat([S.mT, one], 1)])
    counts, unfinished, starts = dict.fromkeys(factors, 0), 0, dict[float, Any]()
    start = perf_counter()
    for _ in range(draws):
        drawn = covariances(C, pairs, generator)
        parts = drawn[:dim, :dim], drawn[dim:, dim:], drawn[:dim, dim:]
        for c in factors:
            penalty = L1(c * math.sqrt(math.log(pairs) / pairs))
            estimate = learn_cost_from_covariances(
                *parts, eps=eps, penalty=penalty, init=starts.get(c), tol=TOL, max_steps=3000
            )
            starts[c] = estimate.theta
            counts[c] += found_exactly(theta, estimate.theta)
            unfinished += not estimate.converged
    about = {"graph": graph, "dim": dim, "eps": eps, "certificate": largest_off(theta, eps), "pairs": pairs}
    seconds = (perf_counter() - start) / (draws * len(factors))
    about |= {"draws": draws, "not converged": unfinished, "seconds a fit": seconds}
    return [{**about, "c": c, "exact": counts[c]} for c in factors]


def sampled(graph: str, dim: int, eps: float, pairs: int, draws: int) -> Row:
    """Count the draws whose support is found exactly from the pairs themselves."""
    theta, generator, exact, same, steps = truth(graph, dim), torch.Generator().manual_seed(SEED), 0, 0, []
    penalty, start = L1(FACTOR * math.sqrt(math.log(pairs) / pairs)), perf_counter()
    for _ in range(draws):
        x, y = between(theta, eps).sample(theta, pairs, generator)
        estimate = learn_cost(x, y, eps=eps, penalty=penalty, tol=1e-4)
        assert estimate.converged
        exact += found_exactly(theta, estimate.theta)
        steps.append(estimate.steps)
        x, y = x - x.mean(0), y - y.mean(0)
        other = learn_cost_from_covariances(
            x.mT @ x / pairs, y.mT @ y / pairs, x.mT @ y / pairs, eps=eps, penalty=penalty, tol=TOL
        )
        same += found_exactly(estimate.theta, other.theta)
    seconds = (perf_counter() - start) / draws
    about = {"graph": graph, "dim": dim, "eps": eps, "certificate": largest_off(theta, eps), "pairs": pairs}
    return {
        **about,
        "c": FACTOR,
        "draws": draws,
        "exact": exact,
        "as from covariances": same,
        "seconds a fit": seconds,
    }


def study(job: tuple[str, tuple[Any, ...]]) -> list[Row]:
    torch.set_num_threads(1)
    kind, arguments = job
    if kind == "from pairs":
        return [sampled(*arguments)]
    factors, draws = {"curves": ((FACTOR,), DRAWS_OF_CURVES), "few pairs": (SMALL, DRAWS)}.get(
        kind, (FACTORS, DRAWS)
    )
    return recovered(*arguments, factors=factors, draws=draws)


def main() -> None:
    small = (("circle", 20), ("planar", 25), ("random", 20))
    jobs: list[tuple[str, tuple[Any, ...]]] = [
        ("factors", (*each, 5.0, pairs)) for each in small for pairs in PAIRS
    ]
    jobs += [("factors", (*each, 5.0, PAIRS[-1])) for each in LARGE]
    jobs += [("few pairs", (*small[0], 2.0, PAIRS[0]))]
    jobs += [("curves", (*each, eps, pairs)) for each in small for eps in EPS for pairs in PAIRS[::2] + PAIRS[-1:]]
    jobs += [("from pairs", each) for each in SAMPLED]
    certificates = [
        {"graph": graph, "dim": dim, "eps": eps, "certificate": largest_off(truth(graph, dim), eps)}
        for graph, dim in (*small, *LARGE)
        for eps in CERTIFIED
    ]
    results: dict[str, Any] = {"c of curves": FACTOR, "floor": FLOOR, "certificates": certificates}
    with ProcessPoolExecutor(WORKERS) as pool:
        for (kind, _), found in zip(jobs, pool.map(study, jobs), strict=True):
            results.setdefault(kind, []).extend(found)
            OUT.write_text(json.dumps(results, indent=1) + "\n")
            for row in found:
                print(kind, json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))
    print(*floors(results), sep="\n")


def floors(results: dict[str, Any]) -> list[str]:
    """Return the counts of exact supports where the certificate of the truth is below one."""
    rows = [
        row for kind in ("factors", "few pairs", "from pairs") for row in results[kind] if row["certificate"] < 1
    ]
    words = "{graph} {dim}, eps {eps:g}, {pairs} pairs, c {c:g}: {exact} of {draws} exact, |z| {certificate:.3f}"
    return [words.format(**row) for row in rows]


if __name__ == "__main__":
    main()
