"""Run all modules of this package, or those that are named: python -m benchmarks.losses [NAME ...]."""

from benchmarks import package

if __name__ == "__main__":
    package.main("losses", "Losses and averages beside other libraries.")
