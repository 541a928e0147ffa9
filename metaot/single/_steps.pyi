from metaot.single.plan import Array

def refine_each(
    kernel: tuple[Array, Array, Array, float, float, float, bool],
    problems: tuple[Array, Array, Array | None],
    results: tuple[Array, Array, Array, Array, Array],
    limits: tuple[float, int],
) -> None: ...
