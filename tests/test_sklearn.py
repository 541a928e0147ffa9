"""The estimator of scikit-learn: its conventions, Gaussians, domains by labels, a pipeline that adapts."""

import numpy as np
import pytest

import metaot

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from metaot.sklearn import EntropicMap  # noqa: E402


@pytest.fixture
def drawn() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.filterwarnings("ignore")
def test_it_keeps_the_conventions_of_scikit_learn():
    found = check_estimator(EntropicMap(), on_fail=None, on_skip=None)
    assert {each["check_name"] for each in found if each["status"] == "failed"} == set()
    assert len(found) > 40


def test_it_is_the_map_of_the_solution(drawn):
    x, y = drawn.normal(size=(40, 2)), drawn.normal(size=(30, 2)) + 2
    fitted = EntropicMap(0.1, relative_to="mean", tol=1e-9).fit(x, y)
    space = metaot.Points(x, y)
    assert fitted.eps_ == pytest.approx(0.1 * ((x[:, None] - y) ** 2).sum(-1).mean())
    solution = metaot.solve(metaot.Problem(np.full(40, 1 / 40), np.full(30, 1 / 30), space, fitted.eps_), tol=1e-9)
    np.testing.assert_allclose(fitted.transform(x), solution.transport().numpy(), atol=1e-9)
    np.testing.assert_allclose(fitted.inverse_transform(y), solution.map().pull(y).numpy(), atol=1e-9)
    labels = np.repeat(["from", "to"], [40, 30])
    together = clone(fitted).fit(np.concatenate([x, y]), labels)
    np.testing.assert_allclose(together.transform(x), fitted.transform(x), atol=1e-12)


def test_a_classifier_of_another_domain_is_right_after_the_map(drawn):
    """Two classes; the target is turned by 60 degrees and moved, so that the classifier fails without the map."""
    labels = np.repeat([0, 1], 60)
    target = drawn.normal(size=(120, 2)) * 0.3 + np.stack([4 * labels - 2, 0 * labels], -1)
    turn = np.array([[0.5, -0.87], [0.87, 0.5]])
    source = target[::-1] @ turn + np.array([3.0, 1.0])
    classifier = LogisticRegression().fit(target, labels)
    adapted = make_pipeline(EntropicMap().fit(source, target), classifier)
    assert classifier.score(source, labels[::-1]) < 0.6
    assert adapted.score(source, labels[::-1]) > 0.95


def test_bad_input_is_named(drawn):
    x = drawn.normal(size=(5, 2))
    for Y, words in (
        (None, "requires y"),
        ([0, 1], "one for each of the 5 rows"),
        (np.ones((4, 3)), "dimension 2"),
    ):
        with pytest.raises(ValueError, match=words):
            EntropicMap().fit(x, Y)
    with pytest.raises(ValueError, match='relative_to must be "std"'):
        EntropicMap(relative_to="median").fit(x, x)
