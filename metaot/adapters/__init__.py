"""The solvers of other libraries, started from predictions: `pot`, `ott`, `geomloss` and `flash_sinkhorn`.

    from metaot.adapters import pot

    solution = pot.sinkhorn(problem, init=model)  # POT does the work, the result is a metaot.Solution
    start = pot.warmstart(problem, model)  # or only the start, for a call of your own

Each module says how its library takes a start, in the library's convention. A library is imported when a function
of its module is called; where it is not installed, the ImportError names the extra that has it.
"""
