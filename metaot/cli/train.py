"""Train a meta-model by a recipe: data, network, objective and schedule in one name."""

import argparse
import shlex
from pathlib import Path

from metaot.checkpoint import annotate
from metaot.recipes import RECIPES
from metaot.training import override, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", choices=sorted(RECIPES), nargs="?", default="shapes")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="override a setting: steps=500, seed=1, data.batch=64, model_settings.width=256",
    )  # fmt: skip
    parser.add_argument(
        "--from", metavar="CHECKPOINT", dest="begin_from",
        help="begin with the weights of a checkpoint (a folder, or universal, mnist, ...), to fine-tune them",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on exactly where the run in --out was saved")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="save and leave at this step")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    recipe = override(RECIPES[options.recipe](), options.settings)
    folder = options.out or Path("runs") / recipe.name
    step = train(
        recipe,
        folder,
        data_dir=options.data_dir,
        begin_from=options.begin_from,
        resume=options.resume,
        stop_at=options.stop_at,
        progress=not options.quiet,
    )
    settings = [part for setting in options.settings for part in ("--set", setting)]
    begun = ["--from", options.begin_from] if options.begin_from else []
    annotate(folder, command=shlex.join(["python", "train.py", options.recipe, *begun, *settings]))
    if step < recipe.steps:
        print(f"saved step {step} of {recipe.steps} in {folder}: go on with the same command and --resume")
    else:
        print(f"saved in {folder}: metaot evaluate {folder}; tensorboard --logdir {folder}")
