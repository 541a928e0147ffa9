"""Batches share the threads: each problem is solved once, bit for bit as by one thread, with torch or without."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from core_problems import METHODS, problems, weights
from numpy.testing import assert_array_equal

from metaot import core
from metaot.core import compiled as packing

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")
SOURCES = Path(packing.__file__).parent / "src"


@pytest.mark.parametrize("name", ["two axes", "three rectangular axes", "matrices", "clouds", "sphere, 64-D"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [2, 5, 300])
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, name, method, threads):
    monkeypatch.setattr(packing, "_WORTH_A_THREAD", 1)
    if method == "accelerated" and "axes" not in name:
        method = "by matrix"
    p = problems(name, batch=7)
    f = np.random.default_rng(0).normal(size=p.a.shape)
    for start in (None, f):
        for one, many in zip(p.solve(method, start), p.solve(method, start, threads=threads), strict=True):
            assert_array_equal(one, many)


def test_threads_share_the_blocks_of_large_clouds():
    generator = np.random.default_rng(0)
    x, y = generator.random((2300, 2)), generator.random((1900, 2))
    a, b = weights(generator, 1, 2300), weights(generator, 1, 1900)
    costs, eps = core.Costs.between_points(x, y, "sqeuclidean"), np.array([3e-3])
    one, three = (
        core.Compiled(costs, a, b, eps, threads=k).sinkhorn(core.EVERY, None, core.Limits(1e-6, 2)) for k in (1, 3)
    )
    for mine, theirs in zip(one, three, strict=True):
        assert_array_equal(mine, theirs)


WITHOUT_TORCH = f"""
import sys
sys.modules["torch"] = None
sys.path.append({str(Path(__file__).parent)!r})
from core_problems import problems
from metaot.core import compiled
compiled._WORTH_A_THREAD = 1
p = problems("two rectangular axes", batch=9)
one, two = (p.solve("accelerated", threads=k) for k in (1, 2))
assert all((x == y).all() for x, y in zip(one, two, strict=True))
assert (one.error <= 1e-9).all()
"""


def test_threads_work_without_torch():
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)


HARNESS = """
#include "core.h"
#include <stdio.h>
enum { COUNT = 1 << 21 };
static ptrdiff_t next;
static unsigned char taken[COUNT];
static void work(void *shared)
{
    (void)shared;
    for (ptrdiff_t k; (k = take_next(&next)) < COUNT;) taken[k]++;
}
int main(void)
{
    run_on_threads(work, NULL, 4);
    for (int k = 0; k < COUNT; k++)
        if (taken[k] != 1) return printf("%d was taken %d times\\n", k, taken[k]), 1;
    return 0;
}
"""


@pytest.mark.skipif(not SOURCES.is_dir(), reason="no source, as in a wheel")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
def test_each_number_is_taken_once(tmp_path: Path):
    """Were the counter not atomic, two threads would solve the same problem."""
    (tmp_path / "harness.c").write_text(HARNESS)
    files = [str(tmp_path / "harness.c"), str(SOURCES / "threads.c"), "-I", str(SOURCES)]
    program = str(tmp_path / "harness")
    subprocess.run(["cc", "-O1", *files, "-o", program, "-lpthread", "-ldl"], check=True)
    for _ in range(3):
        done = subprocess.run([program], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
