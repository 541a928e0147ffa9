"""Run the modules of a package of benchmarks, all or those that are named on the command line."""

import argparse
from importlib import import_module
from pathlib import Path


def main(package: str, description: str) -> None:
    """Call `main` of each module of benchmarks.PACKAGE, in the order of their names."""
    files = (Path(__file__).parent / package).glob("*.py")
    modules = sorted(path.stem for path in files if not path.stem.startswith("_"))
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{package}", description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(modules)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small parts of what takes long, where there are any")
    options = parser.parse_args()
    for name in options.names:
        if name not in modules:
            parser.error(f"NAME must be of {', '.join(modules)}, got {name!r}")
    for name in options.names or modules:
        import_module(f"benchmarks.{package}.{name}").main()
