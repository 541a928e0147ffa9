"""Whatever the problem and the start: `solve` converges and it is true, or it says that it did not; never NaN.

The problems are those of `benchmarks.fuzz`, where the errors are computed anew from the definition.
"""

import pytest
from strategies import unchecked

from benchmarks import fuzz


@pytest.mark.parametrize("seed", range(3))
def test_what_solve_says_is_true(back_end: str, seed: int):
    results = fuzz.run(100 if back_end == "compiled" else 20, seed + 1)
    assert results["instances"] > results["problems"]
    assert not results["faults"], results["faults"]


def test_a_false_solution_would_be_found(monkeypatch: pytest.MonkeyPatch):
    right = fuzz.solve

    def wrong(problem, **settings):
        solution = right(problem, **settings)
        solution.potentials.f[:] += 1e-3 * problem.eps[:, None]
        return solution

    monkeypatch.setattr(fuzz, "solve", wrong)
    with unchecked():
        assert fuzz.run(20, 1)["false"] > 10
