"""Run all modules of this package, or those that are named: python -m benchmarks.scale [NAME ...]."""

from benchmarks import package

if __name__ == "__main__":
    package.main("scale", "What is large.")
