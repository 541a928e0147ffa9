"""Maps and couplings measured beside other libraries; one module for each, one JSON in benchmarks/results."""
