"""`python -m metaot` is the command `metaot`."""

import sys

from metaot.cli import main

if __name__ == "__main__":
    sys.exit(main())
