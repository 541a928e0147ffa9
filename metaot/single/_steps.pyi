from metaot.single.axes_kernel import Flat
from metaot.single.plan import Array

def refine_each(
    kernels: Flat,
    problems: tuple[Array, Array, Array | None],
    results: tuple[Array, Array, Array, Array, Array],
    limits: tuple[float, int],
    threads: int,
) -> None: ...
def step_each(
    kernels: Flat,
    problems: tuple[Array, Array, Array],
    results: tuple[Array, Array, Array],
    threads: int,
) -> None: ...
def value_each(
    kernels: Flat, problems: tuple[Array, Array, Array], results: tuple[Array, Array, Array], threads: int
) -> None: ...
