"""Time to an accuracy for discrete problems, against other libraries: python -m benchmarks.discrete.

Every method solves the same instances in float64 on the same threads, instance by instance in turn, so that a
drift of the clock hits all alike. The clock covers the solver's call, and the network's where a start is
predicted; what a library wants prepared (support, cost matrix, padding, compilation) is made before.

The accuracy is the L1 error of both marginals, computed here from what each method returns. A library has its
own stopping rule, so its tolerance is calibrated for each problem and accuracy: the loosest one, in steps of a
factor 1.4, that reaches the accuracy on up to 16 other instances (2 of large images and batches, fewer of slow
solves; `measure.calibrated`). These solves warm caches and compilers up, too. The error of every timed solve is
recorded, and a cell says how many instances missed. Slow methods solve fewer instances (`n=` in the cell).

The problems are in `problems`, the methods in `methods`.
"""
