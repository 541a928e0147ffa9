"""OTT takes metaot's potentials for what they are, with atoms without mass and on its own grid."""

import pytest
import torch
from strategies import SPACES, assert_close, random_problem

pytest.importorskip("ott")
import jax

from metaot.adapters import ott
from metaot.solvers import solve

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def atol(request):
    """Set the precision of JAX, and tell what can be expected of it."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", request.param)
    yield 1e-7 if request.param else 1e-4
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("name", ["dense", "points, sphere", "grid", "grid, 3-D l1"])
def test_from_the_solution_one_step_is_enough(name, atol):
    problem = random_problem(SPACES[name], (2,), torch.tensor([0.1, 0.2]))
    exact = solve(problem, tol=1e-10)
    warm = ott.sinkhorn(problem, init=exact.potentials, tol=atol, inner_iterations=1)
    assert (warm.steps == 1).all()
    assert warm.converged.all()
    assert_close(warm.plan(), exact.plan(), atol)
    assert_close(warm.value, exact.value, atol)
    cold = ott.sinkhorn(problem, tol=atol, inner_iterations=1)
    assert (cold.steps > 1).any()
    assert_close(cold.plan(), exact.plan(), 10 * atol)


def test_a_prediction_saves_steps_also_by_the_call_that_ott_documents(model, images, atol):
    from ott.solvers.linear.sinkhorn import Sinkhorn  # noqa: PLC0415

    cold, warm = (ott.sinkhorn(images, init=init, tol=1e-2, inner_iterations=1) for init in (None, model))
    assert warm.converged.all()
    assert warm.steps.sum() <= 0.5 * cold.steps.sum()
    one = images[0]
    out = Sinkhorn(threshold=1e-2, inner_iterations=1)(ott.linear_problem(one), init=ott.init(one, model))
    assert out.n_iters <= 2
    assert out.converged


def test_scalings_are_refused(images):
    with pytest.raises(ValueError, match="lse_mode must be true"):
        ott.sinkhorn(images, lse_mode=False)
