"""Train a meta-model: python train.py RECIPE [--out DIR] [--set key=value ...] [--from CHECKPOINT] [--resume].

A recipe (metaot/recipes.py) names the data, the network, the objective and the schedule:

    shapes      embedded random images, no data needed (the default)
    mnist       pairs of MNIST digits; the shipped checkpoint
    mnist-mlp   the same with the network of the paper
    palette     colour transfer between paintings: the shipped checkpoint of maps
    planted     random measures with a known transport map
    problems    your own arrays, written by metaot.data.write_problems; --set data.path=FOLDER

The loop is metaot/training/loop.py: sample problems, predict potentials, ascend the dual. The run's folder
gets the weights (model.pt), a readable description (model.json), TensorBoard's files (board/) and what --resume
needs (training.pt). `metaot.load(folder)` gives the predictor.
"""

import sys

from metaot.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
