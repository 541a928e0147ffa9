from metaot.models.alone import Array

def first(moments: int, modes: int, arrays: tuple[Array, ...]) -> None: ...
def correct(modes: int, arrays: tuple[Array, ...]) -> None: ...
def look_each(modes: int, coldest: float, warmest: float, threads: int, arrays: tuple[Array, ...]) -> None: ...
def correct_each(modes: int, threads: int, arrays: tuple[Array, ...]) -> None: ...
def start_each(
    modes: int,
    coldest: float,
    warmest: float,
    passes: int,
    enough: float,
    threads: int,
    network: tuple[Array, ...],
    correction: tuple[Array, ...],
    kernels: tuple[Array, ...],
    lifts: tuple[Array, ...],
    fine: tuple[Array, ...],
    problems: tuple[Array, ...],
) -> None: ...
