"""Train a meta-model: python train.py RECIPE [--out DIR] [--set key=value ...] [--from CHECKPOINT] [--resume].

A recipe (metaot/recipes.py) names the data, the network, the objective and the schedule. `python train.py --help`
lists the recipes, `python train.py RECIPE --help` the settings of one with their meaning.

The loop is metaot/training/loop.py: sample problems, predict potentials, ascend the dual. The run's folder
gets the weights (model.safetensors), a readable description (model.json), TensorBoard's files (board/) and what
--resume needs (training.pt). `metaot.load(folder)` gives the predictor.

On several devices or machines: torchrun --nproc-per-node 2 train.py RECIPE ... divides each batch among processes.
"""

import sys

from metaot.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
