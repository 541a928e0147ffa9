"""Run all modules of this package, or those that are named: python -m benchmarks.inverse [NAME ...]."""

from benchmarks import package

if __name__ == "__main__":
    package.main("inverse", "Inverse optimal transport, and how exact and quick it is.")
