"""The solvers of other libraries, started from predictions: `pot`, `ott`, `geomloss` and `flash_sinkhorn`.

And what libraries for flow matching ask for, filled by `metaot.couple`: `flow_matching`.

    from metaot.adapters import pot

    solution = pot.sinkhorn(problem, init=model)  # POT does the work, the result is a metaot.Solution
    start = pot.warmstart(problem, model)  # or only the start, for a call of your own

Each module documents how its library takes a start. A library is imported when a function of its module is called;
if it is not installed, the ImportError names the extra that contains it.
"""
