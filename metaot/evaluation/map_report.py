"""The result of an evaluation of maps: dual values for each instance, as JSON and as text."""

import textwrap
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.evaluation.measures import plain
from metaot.evaluation.table import markdown


@final
@dataclass(frozen=True)
class Curve:
    """Dual values of one method at the steps of the report, and seconds for one step of one instance."""

    name: str
    values: Float[Tensor, "instances steps"]
    seconds_per_step: float


@final
@dataclass(frozen=True)
class MapReport:
    """The measurements of a model of maps, instance by instance."""

    data: str
    samples: int
    seed: int
    threads: int
    steps: tuple[int, ...]
    distance: Float[Tensor, "instances"]
    prediction: Float[Tensor, "instances"]
    linear: Float[Tensor, "instances"]
    prediction_seconds: Float[Tensor, "timed"]
    curves: tuple[Curve, ...]
    unexplained: dict[str, Float[Tensor, "instances"]]

    def normalised(self, values: Float[Tensor, "instances ..."]) -> Float[Tensor, "instances ..."]:
        """Return dual values on the scale of table 2, of W2GN from scratch and from the model."""
        runs = torch.cat([curve.values for curve in self.curves if curve.name in ("from scratch", "model")], 1)
        low, high = runs.amin(1), runs.amax(1)
        shape = (-1, *[1] * (values.ndim - 1))
        return (values - low.reshape(shape)) / (high - low).reshape(shape)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts."""
        found = plain(self)
        return {"L2-UVP": found.pop("unexplained"), "torch": torch.__version__, **found}

    def summary(self) -> dict[str, Any]:
        """Return the figures for a checkpoint's card."""
        share, normal = self.prediction / self.distance, self.normalised(self.prediction)
        return {
            "instances": len(self.distance),
            "samples": self.samples,
            "seed": self.seed,
            "normalised_value": _pair(normal),
            "share_of_optimum": _pair(share),
            "linear_normalised_value": _pair(self.normalised(self.linear)),
            "prediction_ms": round(1e3 * float(self.prediction_seconds.median()), 2),
        }

    def table(self) -> str:
        """Return the tables in Markdown."""
        head = (
            f"{len(self.distance)} test pairs of {self.data}, {self.samples} samples, seed {self.seed}, "
            f"threads: {self.threads}. Mean (worst) of exact dual values, normalised as in table 2 of Meta OT "
            f"and, in brackets, as a share of the optimum between the samples. A prediction takes "
            f"{1e3 * float(self.prediction_seconds.median()):.1f} ms (median, one pair)."
        )
        budgets = [f"{step} steps" for step in self.steps]
        rows = [self._row("linear (Bures)", self.linear[:, None], "")]
        rows += [self._row(c.name, c.values, f"{1e3 * c.seconds_per_step:.1f}") for c in self.curves]
        lines = markdown(["", *budgets, "ms a step"], rows)
        parts = [textwrap.fill(head, 110), "\n".join(lines), self._steps_worth()]
        if self.unexplained:
            values = [[n, f"{v.mean():.2f} %", f"{v.max():.2f} %"] for n, v in self.unexplained.items()]
            parts.append("\n".join(markdown(["L2-UVP", "mean", "worst"], values)))
        return "\n\n".join(parts)

    def _row(self, name: str, values: Tensor, last: str) -> list[str]:
        normal, share = self.normalised(values), values / self.distance[:, None]
        cells = [
            f"{normal[:, k].mean():.3f} ({normal[:, k].min():.3f}) [{share[:, k].mean():.3f}]"
            for k in range(values.shape[1])
        ]
        return [name, *cells, *[""] * (len(self.steps) - len(cells)), last]

    def _steps_worth(self) -> str:
        """Return a sentence: how many steps from scratch are worth a prediction."""
        scratch = next(curve for curve in self.curves if curve.name == "from scratch")
        reached = scratch.values.mean(0) >= self.prediction.mean()
        words = "W2GN from scratch reaches the mean of the predictions"
        if not bool(reached.any()):
            return f"{words} in more than {self.steps[-1]} steps."
        k = int(reached.int().argmax())
        return f"{words} between {self.steps[max(k - 1, 0)]} and {self.steps[k]} steps."


def _pair(values: Tensor) -> dict[str, float]:
    return {"mean": round(float(values.mean()), 4), "worst": round(float(values.min()), 4)}
