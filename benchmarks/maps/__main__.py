"""Run all modules of this package, or those that are named: python -m benchmarks.maps [NAME ...]."""

from benchmarks import package

if __name__ == "__main__":
    package.main("maps", "Maps and couplings beside other libraries.")
