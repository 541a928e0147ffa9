"""The surplus of couples by the ages of both, from marriages and singles of the United States in 1971 and 1972.

Counts of Choo and Siow (JPE 2006). With an indicator for each pair of age groups the estimate must be the closed
form log(couples^2 / (single men x single women)). With broken lines in both ages and in their difference: how far
predicted numbers of married men and women of each age are from those that were seen. The same features with the
price KL(rho) of marginals, instead of the entropy of singles.
"""

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaot import KL
from metaot.folders import find_data
from metaot.inverse import learn_cost_from_plan, learn_surplus, surplus

OUT = Path("benchmarks/results/inverse-singles.json")
AGES = torch.arange(16.0, 76.0, dtype=torch.float64)
KNOTS = (16, 18, 20, 23, 27, 35, 50, 65, 76)
OLDER = (-60, -15, -6, -2, 0, 3, 7, 15, 60)
GROUPS, FIRST = 6, 30
"""Groups of the first ages, where all pairs have couples."""
PRICES = (0.1, 1.0, 10.0)


def hats(z: Tensor, knots: tuple[int, ...]) -> list[Tensor]:
    """Return a function for each knot but the first: one there, zero at the others, linear between them."""
    at = torch.tensor(knots, dtype=z.dtype)
    left = ((z[..., None] - at[:-1]) / at.diff()).clamp(0, 1)
    return list((left - torch.cat([left[..., 1:], torch.zeros_like(left[..., :1])], -1)).unbind(-1))


def lines() -> list[Tensor]:
    """Return broken lines in his age, in hers and in how much older he is, which change with age."""
    his, hers = AGES[:, None].expand(60, 60), AGES.expand(60, 60)
    apart, both = hats(his - hers, OLDER), (his + hers - 90) / 30
    features = [torch.ones(60, 60, dtype=torch.float64), *hats(his, KNOTS), *hats(hers, KNOTS), *apart[:-1]]
    return features + [part * both for part in apart]


def counts() -> tuple[Tensor, Tensor, Tensor]:
    folder = find_data("matching", otherwise="copy it there")
    men, women = torch.from_numpy(np.loadtxt(folder / "choo_siow_singles.txt")).T
    return torch.from_numpy(np.loadtxt(folder / "choo_siow_marriages.txt")), men, women


def off(found: Tensor, seen: Tensor) -> float:
    """Return the L1 distance of numbers by age, over their sum."""
    return float((found - seen).abs().sum() / seen.sum())


def saturated() -> dict[str, Any]:
    """Compare the estimate with an indicator for each pair of groups, of the first ages, with the closed form."""
    mu, men, women = (part[:FIRST] for part in counts())
    size = FIRST // GROUPS
    alone = [each.view(GROUPS, size).sum(1) for each in (men, women)]
    parts = mu[:, :FIRST].reshape(GROUPS, size, GROUPS, size).sum((1, 3)), *alone
    features, start = list(torch.eye(GROUPS**2).view(-1, GROUPS, GROUPS)), perf_counter()
    found = learn_surplus(*parts, features=features, tol=1e-12)
    difference = float((found.surplus - surplus(*parts)).abs().max())
    return {"groups": GROUPS, "largest difference": difference, **how(found, start)}


def how(found: Any, start: float) -> dict[str, Any]:
    return {"converged": found.converged, "seconds": perf_counter() - start}


def by_lines() -> dict[str, Any]:
    """Learn the surplus by broken lines."""
    mu, men, women = counts()
    features = lines()
    learn_surplus(mu, men, women, features=features)
    start = perf_counter()
    found = learn_surplus(mu, men, women, features=features)
    row = how(found, start) | {"parameters": len(features), "steps": found.estimate.steps}
    expected = surplus(mu, men, women)
    often = mu >= 100
    return row | {
        "inner steps": found.estimate.inner_steps,
        "married men": off(found.couples.sum(1), mu.sum(1)),
        "married women": off(found.couples.sum(0), mu.sum(0)),
        "couples": off(found.couples, mu),
        "root mean square of the surplus's error, 100 couples or more": float(
            (found.surplus - expected)[often].square().mean().sqrt()
        ),
        "highest": float(found.surplus.max()),
        "his and her age there": [int(AGES[k]) for k in divmod(int(found.surplus.argmax()), 60)],
        "largest standard error": float(found.standard_errors.max()),
    }


def by_price() -> list[dict[str, Any]]:
    """Learn a cost with the same features and the price KL(rho) of marginals, of the whole population."""
    mu, men, women = counts()
    persons, rows = float(mu.sum()), []
    a, b = (mu.sum(1) + men) / persons, (mu.sum(0) + women) / persons
    for rho in PRICES:
        start = perf_counter()
        found = learn_cost_from_plan(mu / persons, eps=1.0, features=lines(), marginals=KL(rho), a=a, b=b)
        plan = persons * found.solution.plan()
        sums = {"married men": off(plan.sum(1), mu.sum(1)), "married women": off(plan.sum(0), mu.sum(0))}
        sums |= {"couples": off(plan, mu), "status": found.status.name}
        rows.append({"rho": rho, **sums, **how(found, start)})
        print(rows[-1])
    return rows


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    results = {"indicators": saturated(), "broken lines": by_lines()}
    for name, row in results.items():
        print(name, row)
    OUT.write_text(json.dumps({**results, "prices": by_price()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
