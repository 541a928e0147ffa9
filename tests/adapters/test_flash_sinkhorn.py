"""FlashSinkhorn takes metaot's potentials for what they are; CUDA only."""

import pytest
import torch
from strategies import assert_close, random_problem

from metaot.adapters import flash_sinkhorn
from metaot.geometry import Dense, Points
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import solve


@pytest.mark.gpu
@pytest.mark.parity
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_starts_save_steps_and_the_plan_is_the_same():
    pytest.importorskip("flash_sinkhorn")
    a, b = torch.rand(300).softmax(-1).cuda(), torch.rand(200).softmax(-1).cuda()
    problem = Problem(a, b, Points(torch.rand(300, 3).cuda(), torch.rand(200, 3).cuda()), 0.05)
    exact = solve(problem, tol=1e-9)
    near = DualPotentials(exact.potentials.f + 3e-3 * torch.randn(300).cuda(), exact.potentials.g)
    cold, warm, done = (
        flash_sinkhorn.sinkhorn(problem, init=init, tol=1e-3, check_every=1)
        for init in (None, near, exact.potentials)
    )
    assert done.steps == 4
    assert warm.steps < cold.steps
    for solution in (cold, warm, done):
        assert solution.converged
        assert_close(solution.plan(), exact.plan(), 1e-3)


def test_other_costs_and_devices_are_refused():
    with pytest.raises(ValueError, match="cost 'sqeuclidean', got Dense"):
        flash_sinkhorn.sinkhorn(random_problem(lambda batch: Dense(torch.rand(7, 5))))
    with pytest.raises(ValueError, match="runs on CUDA, the problem is on cpu"):
        flash_sinkhorn.sinkhorn(random_problem(lambda batch: Points(torch.rand(7, 2), torch.rand(5, 2))))
