"""Progressive transport beside one entropic problem, its form as published, and that of OTT.

Images and their blurred copies, for which the identity is optimal: what the couplings find of it. Planted maps:
L2-UVP in percent, on new points, beside the entropic map at the temperature that is best on the same new points,
which nobody knows in practice, and beside the prediction of a model where `runs/planted-D` holds one. All in
float64, on one thread, with a marginal error of 1e-3; seconds are those of the processor. OTT, whose steps take
minutes, has the first pairs only, and what is set against it is measured on the same.
"""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaot import Points, Problem, Sinkhorn, Solution, solve
from metaot.brenier import SampleProblem
from metaot.checkpoint import load
from metaot.data import Planted
from metaot.data.images import read_idx_images
from metaot.folders import find_data
from metaot.maps import progot

OUT, RUNS = Path("benchmarks/results/maps-progot.json"), Path("runs")
COUNT, TOL, STEPS, SEED = 2000, 1e-3, 4, 20261130
"""Points of a cloud, the marginal error, the maps of a progressive map, and the seed of what is drawn."""
DIMS, PAIRS, OTT_PAIRS = (2, 8, 32, 64), 4, 2
SHARES = tuple(2.0**k for k in range(-5, 3))
"""Temperatures of the single entropic map, over the mean cost divided by 20."""
BETAS = (0.5, 1.5, 5.0, 15.0)
SHARP = 1 / 16
"""The last temperature of couplings, over the mean cost within the target divided by 20."""
OTT = "OTT's ProgOT"
PLAIN, MOST = Sinkhorn(accelerated=False), 5000
OVER_ENTROPIC, OVER_PLAIN, KL_OVER_SINKHORN, OVER_BETA = 0.8, 0.3, 0.2, 1.1
"""Floors: error over the best entropic map's, steps over plain Sinkhorn's, KL over Sinkhorn's at sigma 4, and the
worst error over the best while beta0 changes by a factor of 30."""

Row = dict[str, Any]


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Return images, count side side, after a Gaussian filter whose weights sum to one at the borders too."""
    at = torch.arange(images.shape[-1], dtype=images.dtype)
    kernel = (-(at[:, None] - at).square() / (2 * sigma**2)).softmax(1)
    return kernel @ images @ kernel.mT


def digits() -> Tensor:
    images = read_idx_images(find_data("mnist/t10k-images-idx3-ubyte.gz", otherwise="copy it there"))
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))[:COUNT]
    return torch.as_tensor(np.asarray(images))[chosen].double() / 255


def crops() -> Tensor:
    """Return grey 32 x 32 parts of paintings."""
    from PIL import Image  # noqa: PLC0415, where pictures are read

    draw, found = np.random.default_rng(SEED), []
    files = sorted(find_data("paintings", otherwise="copy it there").glob("*.jpg"))
    pixels = [np.asarray(Image.open(file).convert("L")) for file in files]
    for k in range(COUNT):
        one = pixels[k % len(pixels)]
        top, left = (int(draw.integers(side - 32)) for side in one.shape)
        found.append(one[top : top + 32, left : left + 32])
    return torch.from_numpy(np.stack(found)).double() / 255


def even(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def one_problem(x: Tensor, y: Tensor, eps: float, **settings: Any) -> Solution:
    return solve(Problem(even(len(x)), even(len(y)), Points(x, y), eps), tol=TOL, **settings)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the second of two runs finds, and its seconds of processor time."""
    run()
    start = process_time()
    return run(), process_time() - start


def of_coupling(plan: Tensor) -> Row:
    """Return the trace of a plan, and the divergence KL of the identity from it."""
    return {"trace": float(plan.trace()), "KL": float(-(len(plan) * plan.diagonal()).log().mean())}


def plain_steps(maps: Any) -> int:
    """Return the steps of plain Sinkhorn from the same starts, on the same problems."""
    total, init = 0, None
    for solution, length in zip(maps.solutions, maps.lengths, strict=True):
        total += int(solve(solution.problem, init=init, solver=PLAIN, tol=TOL, max_steps=MOST).steps)
        init = (solution.potentials.f * (1 - length), solution.potentials.g * (1 - length))
    return total


def blur() -> list[Row]:
    """Couple images with their blurred copies, by one problem and by four."""
    rows = []
    for name, images in (("MNIST", digits()), ("paintings", crops())):
        for sigma in (2.0, 4.0):
            x, y = images.flatten(1), blurred(images, sigma).flatten(1)
            scale = float(Points(x, y).mean_cost()) / 20
            about = {"images": name, "sigma": sigma}
            ways: dict[str, Callable[[], Any]] = {
                "ProgOT, constant speed": lambda x=x, y=y: progot(x, y, schedule="constant", share=SHARP),
                "ProgOT, quartic": lambda x=x, y=y: progot(x, y, share=SHARP),
                "ProgOT, quartic, share by held-out points": lambda x=x, y=y: progot(x, y),
            }
            last = SHARP * float(Points(y).mean_cost()) / 20
            for label, eps in (("Sinkhorn, eps of the scale", scale), ("Sinkhorn, ProgOT's last eps", last)):
                found, seconds = timed(lambda eps=eps, x=x, y=y: one_problem(x, y, eps))
                plain = int(one_problem(x, y, eps, solver=PLAIN, max_steps=MOST).steps)
                steps = {"steps": int(found.steps), "plain steps": plain, "seconds": seconds}
                rows.append({**about, "way": label, **of_coupling(found.plan()), **steps})
                print(rows[-1])
            for label, run in ways.items():
                found, seconds = timed(run)
                steps = {"steps": int(found.steps), "plain steps": plain_steps(found), "seconds": seconds}
                rows.append({**about, "way": label, **of_coupling(found.plan()), **steps})
                print(rows[-1])
    return rows


def by_ott(x: Tensor, y: Tensor, new: Tensor) -> tuple[Tensor, float]:
    """Return what OTT's ProgOT makes of new points, by its schedule and the temperatures of its algorithm 4.

    Its seconds are those of one run, and those in which its temperatures are compiled.
    """
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    from jax.experimental import checkify  # noqa: PLC0415
    from ott.geometry.pointcloud import PointCloud  # noqa: PLC0415
    from ott.problems.linear.linear_problem import LinearProblem  # noqa: PLC0415
    from ott.tools.progot import ProgOT, get_alpha_schedule, get_epsilon_schedule  # noqa: PLC0415

    jax.config.update("jax_enable_x64", True)
    alphas = get_alpha_schedule("lin", num_steps=STEPS)

    @jax.jit
    @checkify.checkify
    def pushed(x: Any, y: Any, new: Any, epsilons: Any) -> Any:
        found = ProgOT(alphas, epsilons=epsilons)(LinearProblem(PointCloud(x, y)), warm_start=True, threshold=TOL)
        return found.transport(new)[1]

    x, y, new, fit, held = (jnp.asarray(z.numpy()) for z in (x, y, new, y[: -len(y) // 5], y[-len(y) // 5 :]))
    compiled = pushed.lower(x, y, new, jnp.ones(STEPS)).compile()
    start = process_time()
    epsilons = get_epsilon_schedule(
        PointCloud(x, fit), alphas=alphas, epsilon_scales=2.0 ** jnp.arange(-4.0, 3.0), y_eval=held,
        start_epsilon_scale=5.0, threshold=TOL,
    )  # fmt: skip
    found = jax.block_until_ready(compiled(x, y, new, epsilons)[1])
    return torch.from_numpy(np.array(found)), process_time() - start


def predicted(model: Any, problem: SampleProblem, new: Tensor) -> Tensor:
    return model.predict(problem).push(new[None].float())[0].double()


def planted(dim: int) -> list[Row]:
    """Measure the errors of maps on new points, of each pair."""
    drawn, truth = Planted(PAIRS, 2 * COUNT, dim).split("test").with_map(torch.Generator().manual_seed(SEED))
    wanted, rows = truth.gradient(drawn.x)[:, COUNT:].double(), []
    model = load(RUNS / f"planted-{dim}") if (RUNS / f"planted-{dim}").is_dir() else None
    for k in range(PAIRS):
        x, y, new = drawn.x[k, :COUNT].double(), drawn.y[k, :COUNT].double(), drawn.x[k, COUNT:].double()
        scale = float(Points(x, y).mean_cost()) / 20

        def error(sent: Tensor, true: Tensor = wanted[k]) -> float:
            return 100 * float((sent - true).square().sum(-1).mean() / true.var(0).sum())

        ways: dict[str, tuple[Tensor, float]] = {}
        for share in SHARES:
            found, seconds = timed(lambda: one_problem(x, y, share * scale).map().push(new))  # noqa: B023
            if "entropic, best eps" not in ways or error(found) < error(ways["entropic, best eps"][0]):
                ways["entropic, best eps"] = (found, seconds)
        steps = {}
        for schedule in ("quartic", "constant"):
            maps = progot(x, y, schedule=schedule)
            ways[f"ProgOT, {schedule}"] = timed(lambda: progot(x, y, schedule=schedule).push(new))  # noqa: B023
            steps[schedule] = {"steps": int(maps.steps), "plain steps": plain_steps(maps)}
        for beta in BETAS:
            ways[f"beta0 = {beta:g}"] = timed(lambda: progot(x, y, beta0=beta).push(new))  # noqa: B023
        if k < OTT_PAIRS and find_spec("ott") is not None:
            ways[OTT] = by_ott(x, y, new)
        if model is not None:
            one = SampleProblem(x[None].float(), y[None].float())
            ways["prediction"] = timed(lambda: predicted(model, one, new))  # noqa: B023
        errors = {way: {"UVP": error(sent), "seconds": seconds} for way, (sent, seconds) in ways.items()}
        rows.append({"dim": dim, "pair": k, "ways": errors, "steps": steps})
        print(dim, k, {way: round(found["UVP"], 3) for way, found in errors.items()}, steps, flush=True)
    return rows


def means(rows: list[Row]) -> list[Row]:
    """Return mean errors and seconds of each dimension, and how far the worst beta0 is from the best."""
    summary = []
    for dim in sorted({row["dim"] for row in rows}):
        own = [row["ways"] for row in rows if row["dim"] == dim]
        ways = {
            way: {key: mean(one[way][key] for one in own if way in one) for key in ("UVP", "seconds")}
            for way in own[0]
        }
        betas = [found["UVP"] for way, found in ways.items() if way.startswith("beta0")]
        best = ways["entropic, best eps"]["UVP"]
        over = {way: found["UVP"] / best for way, found in ways.items()}
        row = {"dim": dim, "ways": ways, "over entropic": over, "over beta0": max(betas) / min(betas)}
        ours, theirs = (
            sum(one[way]["UVP"] for one in own if OTT in one and way in one) for way in ("ProgOT, quartic", OTT)
        )
        summary.append(row | ({"over OTT": ours / theirs} if theirs else {}))
    return summary


def main() -> None:
    torch.set_num_threads(1)
    coupled = blur()
    errors = [row for dim in DIMS for row in planted(dim)]
    steps = [one for row in errors for one in row["steps"].values()]
    results = {
        "samples": COUNT,
        "tol": TOL,
        "maps": STEPS,
        "blur": coupled,
        "planted": means(errors),
        "pairs": errors,
        "steps over plain": sum(one["steps"] for one in steps) / sum(one["plain steps"] for one in steps),
        "floors": {
            "error over the best entropic map's": OVER_ENTROPIC,
            "steps over plain": OVER_PLAIN,
            "KL over Sinkhorn's at sigma 4": KL_OVER_SINKHORN,
            "worst error over best, beta0": OVER_BETA,
        },
    }
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["planted"]:
        print(row["dim"], row["over entropic"], "beta0", row["over beta0"])
    print("steps over plain", results["steps over plain"])


if __name__ == "__main__":
    main()
