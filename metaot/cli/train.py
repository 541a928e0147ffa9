"""Train a meta-model by a recipe: data, network, objective and schedule in one name."""

import argparse
import inspect
import json
import shlex
import textwrap
from pathlib import Path

from metaot.checkpoint import annotate
from metaot.cli.options import add_data_dir, new_folder, whole
from metaot.recipes import RECIPES
from metaot.training import override, settings_of, train
from metaot.training.processes import joined

_DEFAULT = "shapes"
_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", choices=list(RECIPES), nargs="?", default=_DEFAULT, metavar="RECIPE",
        help=f"what to train (default: {_DEFAULT}); `metaot train --help` lists the recipes, `metaot train RECIPE "
        "--help` the settings of one",
    )  # fmt: skip
    parser.add_argument("--out", type=new_folder, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="override a setting: steps=500, seed=1, data.batch=64, model_settings.width=256",
    )  # fmt: skip
    parser.add_argument(
        "--from", metavar="CHECKPOINT", dest="begin_from",
        help="begin with the weights of a checkpoint (a folder, or universal, mnist, ...), to fine-tune them",
    )  # fmt: skip
    parser.add_argument("--device", help="where to train: cpu, cuda, cuda:1 ... (default: CUDA when it is there)")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the run in --out was saved")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run or the checkpoint that is in --out"
    )
    parser.add_argument("--stop-at", type=whole(1), metavar="STEP", help="save and leave at this step")
    add_data_dir(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def epilog(arguments: list[str]) -> str:
    """Return the list of recipes, or of the settings of the recipe that the arguments name."""
    named = next((each for each in arguments if each in RECIPES), None)
    return _recipes() if named is None else _settings(named)


def _recipes() -> str:
    lines = ["recipes (metaot train RECIPE --help shows the settings of one):"]
    for name, recipe in RECIPES.items():
        words = (inspect.getdoc(recipe) or "").splitlines()[0]
        lines.append(textwrap.fill(words, _WIDTH, initial_indent=f"  {name:16}", subsequent_indent=" " * 18))
    return "\n".join(lines)


def _settings(name: str) -> str:
    recipe = RECIPES[name]()
    words = " ".join((inspect.getdoc(RECIPES[name]) or "").split())
    lines = [textwrap.fill(f"{name}: {words}", _WIDTH), "", "settings and their defaults (--set KEY=VALUE):"]
    for setting in settings_of(recipe):
        value = setting.value if isinstance(setting.value, str) else json.dumps(setting.value)
        lines.append(f"  {setting.name}={value}")
        lines.append(textwrap.fill(setting.meaning, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    device = [] if options.device is None else [f"device={options.device}"]
    recipe = override(RECIPES[options.recipe](), [*options.settings, *device])
    folder = options.out or new_folder(str(Path("runs") / recipe.name))
    step = train(
        recipe,
        folder,
        data_dir=options.data_dir,
        begin_from=options.begin_from,
        resume=options.resume,
        overwrite=options.overwrite,
        stop_at=options.stop_at,
        progress=not options.quiet,
    )
    if not joined(recipe).is_first:
        return
    settings = [part for setting in options.settings for part in ("--set", setting)]
    begun = ["--from", options.begin_from] if options.begin_from else []
    annotate(folder, command=shlex.join(["python", "train.py", options.recipe, *begun, *settings]))
    if step < recipe.steps:
        print(f"saved step {step} of {recipe.steps} in {folder}: go on with the same command and --resume")
    else:
        print(f"saved in {folder}: metaot evaluate {folder}; tensorboard --logdir {folder}")
