"""Download a data set from the Hugging Face hub into the data folder."""

import argparse

from metaot.cli.options import add_data_dir, new_folder, whole
from metaot.folders import data_folder

_LIMIT = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="mnist, or a data set of images by its name: OWNER/NAME")
    parser.add_argument("--column", default="image", help="of images: the column that holds them (default: image)")
    parser.add_argument("--limit", type=whole(1), default=_LIMIT, help=f"of images: how many (default: {_LIMIT})")
    add_data_dir(parser, written=True)


def run(options: argparse.Namespace) -> None:
    owner, _, name = options.data.partition("/")
    if options.data != "mnist" and not (owner and name):
        raise ValueError(f"fetch mnist, or a data set of images by its name OWNER/NAME, got {options.data!r}")
    new_folder(str(data_folder(options.data_dir)))
    from metaot.data.images import fetch_mnist  # noqa: PLC0415, with torch, which takes seconds
    from metaot.data.paintings import fetch_images  # noqa: PLC0415, the same

    if options.data == "mnist":
        folder = fetch_mnist(options.data_dir)
    else:
        folder = fetch_images(options.data, options.data_dir, column=options.column, limit=options.limit)
    print(f"saved in {folder}")
