"""Run all modules of this package, or those that are named: python -m benchmarks.maps [NAME ...]."""

import argparse
from importlib import import_module
from pathlib import Path

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Maps and couplings beside other libraries.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small parts of what takes long, where there are any")
    options = parser.parse_args()
    for name in options.names:
        if name not in MODULES:
            parser.error(f"NAME must be of {', '.join(MODULES)}, got {name!r}")
    for name in options.names or MODULES:
        import_module(f"benchmarks.maps.{name}").main()


if __name__ == "__main__":
    main()
