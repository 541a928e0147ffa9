"""Download a data set from the Hugging Face hub into the data folder."""

import argparse
from pathlib import Path

from metaot.data import mnist

FETCHERS = {"mnist": mnist.fetch}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", choices=sorted(FETCHERS))
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")


def run(options: argparse.Namespace) -> None:
    print(f"saved in {FETCHERS[options.data](options.data_dir)}")
