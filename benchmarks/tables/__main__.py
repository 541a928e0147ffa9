"""Print tables."""

import argparse

from benchmarks.tables import TABLES, readme


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"readme, or of {', '.join(TABLES)}; all without")
    options = parser.parse_args()
    makers = {**TABLES, "readme": None}
    if unknown := [name for name in options.names if name not in makers]:
        parser.error(f"there is no table {', '.join(unknown)}: there are {', '.join(makers)}")
    for name in options.names or TABLES:
        for make in [readme.helps, readme.compared] if name == "readme" else [TABLES[name]]:
            print(f"{make.__doc__}\n\n{make().markdown()}\n")


if __name__ == "__main__":
    main()
