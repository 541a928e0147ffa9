"""What losses and averages cost, beside other libraries; `python -m benchmarks.losses` runs all modules."""
