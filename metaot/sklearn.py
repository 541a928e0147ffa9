"""Estimators of scikit-learn, for pipelines: `pip install metaot[sklearn]`."""

from typing import Any, Literal, final

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # type: ignore[attr-defined]

from metaot.entropic_map import EntropicMap as _Map
from metaot.geometry import Points
from metaot.problem import Problem
from metaot.solvers import solve


@final
class EntropicMap(TransformerMixin, BaseEstimator):
    """Send samples of one domain to where those of another one are, by the map of entropic transport.

    Fitted to two clouds, or to one whose labels say which samples belong where; then it sends any samples, and
    back. In a pipeline, what follows sees the source as if it came from the target's domain.

    `eps` is the temperature: a lower one follows details more closely, and takes more steps. It is relative to the
    standard deviation ("std") or the mean ("mean") of the cost between both clouds, or in units of the cost, where
    `relative_to` is None. `cost` is one of `metaot.Points`; `tol`, the L1 error of the plan's marginals, and
    `max_steps` are those of `metaot.solve`.

    Once fitted, `eps_` is the temperature in units of the cost, `map_` a `metaot.maps.EntropicMap`, `converged_`
    says whether the plan has the accuracy `tol`, and `n_features_in_` is the dimension of the samples.
    """

    def __init__(
        self,
        eps: float = 0.05,
        *,
        relative_to: Literal["std", "mean"] | None = "std",
        cost: Any = "sqeuclidean",
        tol: float = 1e-3,
        max_steps: int = 10_000,
    ) -> None:
        self.eps, self.relative_to, self.cost = eps, relative_to, cost
        self.tol, self.max_steps = tol, max_steps

    def fit(self, X: Any, Y: Any) -> "EntropicMap":
        """Fit the map from the cloud X, n d, to Y, m d, or to labels of the rows of X.

        With labels, one for each row of X, the rows with the first one in sorted order are the source, and all
        others the target; if there is only one, both are X.
        """
        X = validate_data(self, X, dtype=np.float64)
        source, target = _domains(X, Y)
        space = Points(source, target, self.cost)
        scales = {None: lambda: 1.0, "std": space.std_cost, "mean": space.mean_cost}
        if self.relative_to not in scales:
            raise ValueError(f'relative_to must be "std", "mean" or None, got {self.relative_to!r}')
        scale = float(scales[self.relative_to]())
        self.eps_ = self.eps * (scale if scale > 0 else 1.0)
        a, b = (np.full(count, 1 / count) for count in space.shape)
        solution = solve(Problem(a, b, space, self.eps_), tol=self.tol, max_steps=self.max_steps)
        self.map_: _Map = solution.map()
        self.converged_ = bool(solution.converged)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Send samples of the source's domain, k d, to the target's."""
        check_is_fitted(self)
        return self.map_.push(validate_data(self, X, dtype=np.float64, reset=False)).numpy()

    def inverse_transform(self, Y: Any) -> np.ndarray:
        """Send samples of the target's domain, k d, to the source's."""
        check_is_fitted(self)
        return self.map_.pull(check_array(Y, dtype=np.float64)).numpy()

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()  # type: ignore[misc]
        tags.target_tags.required = True
        return tags


def _domains(X: np.ndarray, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the clouds of source and target; ValueError unless Y is a cloud like X, or labels of its rows."""
    if Y is None:
        raise ValueError("requires y to be passed, but the target y is None: the target's cloud, m d, or labels")
    labels = np.asarray(Y)
    if labels.ndim == 1:
        if len(labels) != len(X):
            raise ValueError(f"labels must be one for each of the {len(X)} rows of X, got {len(labels)}")
        first = labels == np.unique(labels)[0]
        return X[first], X[~first] if not first.all() else X
    cloud = check_array(Y, dtype=np.float64)
    if cloud.shape[1] != X.shape[1]:
        raise ValueError(f"Y must be a cloud of dimension {X.shape[1]} as X, or labels, got shape {cloud.shape}")
    return X, cloud
