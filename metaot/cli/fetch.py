"""Download a data set from the Hugging Face hub into the data folder."""

import argparse
from pathlib import Path

from metaot.data.images import fetch_mnist
from metaot.data.paintings import LIMIT, fetch_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="mnist, or a data set of images by its name: OWNER/NAME")
    parser.add_argument("--column", default="image", help="of images: the column that holds them (default: image)")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"of images: how many (default: {LIMIT})")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")


def run(options: argparse.Namespace) -> None:
    if options.data == "mnist":
        folder = fetch_mnist(options.data_dir)
    elif "/" in options.data:
        if options.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {options.limit}")
        folder = fetch_images(options.data, options.data_dir, column=options.column, limit=options.limit)
    else:
        raise ValueError(f"fetch mnist, or a data set of images by its name OWNER/NAME, got {options.data!r}")
    print(f"saved in {folder}")
