from metaot.single.plan import Array

_Kernel = tuple[Array, Array, Array, float, float, float, bool]

def refine_each(
    kernel: _Kernel,
    problems: tuple[Array, Array, Array | None],
    results: tuple[Array, Array, Array, Array, Array],
    limits: tuple[float, int],
    threads: int,
) -> None: ...
def step_each(
    kernel: _Kernel, problems: tuple[Array, Array, Array], results: tuple[Array, Array, Array], threads: int
) -> None: ...
