"""Complete experiments, one function each."""

from collections.abc import Callable
from dataclasses import replace

from metaot.data import (
    Drawings,
    Mnist,
    Paintings,
    Palettes,
    Planted,
    ProblemFolder,
    Roads,
    Shapes,
    Snapshots,
    Sphere,
)
from metaot.models import GroupedPotential, ModalPotential, PotentialMLP, RefinedPotential, SpectralPotential
from metaot.models.costs import CostNetwork
from metaot.models.palette import PaletteIcnn
from metaot.models.paper import ResNetIcnn
from metaot.models.population import PotentialNetwork
from metaot.models.universal import UniversalNetwork
from metaot.objectives import brenier_loss
from metaot.training import Recipe
from metaot.training.costs import CostTask
from metaot.training.populations import PopulationTask
from metaot.training.tasks import ContinuousTask, DiscreteTask, GroupedTask, UniversalTask


def shapes() -> Recipe:
    """Embedded random images on the 28 x 28 grid; no data is read."""
    return Recipe(
        "shapes", Shapes(batch=64), RefinedPotential, DiscreteTask, steps=10_000, learning_rate=3e-3, warmup=200
    )


def mnist() -> Recipe:
    """Pairs of MNIST digits, eps from 1e-3 to 1e-1 as an input: the shipped checkpoint."""
    return Recipe(
        "mnist",
        Mnist(batch=256, eps=(1e-3, 1e-1)),
        RefinedPotential,
        DiscreteTask,
        {"first": {"width": 160, "hidden": 192, "depth": 1}, "passes": 1, "unrolled": 2, "hidden": 64},
        steps=8_000,
        learning_rate=3e-3,
    )


def mnist_spectral() -> Recipe:
    """The same pairs with a network that is not refined: one pass, no Sinkhorn step inside."""
    return replace(mnist(), name="mnist-spectral", model=SpectralPotential, model_settings={"width": 480})


def mnist_mlp() -> Recipe:
    """The network and the one eps of the paper, on the same pairs."""
    return Recipe("mnist-mlp", Mnist(batch=128, eps=(1e-2, 1e-2)), PotentialMLP, DiscreteTask, steps=50_000)


def problems() -> Recipe:
    """Your own problems, between fixed places or with a cost matrix; minutes on two cores.

    `metaot.data.write_problems` writes the folder that is named with --set data.path=FOLDER.
    """
    return Recipe(
        "problems",
        ProblemFolder(batch=128),
        ModalPotential,
        DiscreteTask,
        {"modes": 64, "width": 256, "hidden": 256, "depth": 2, "passes": 1, "unrolled": 2},
        steps=2_000,
        learning_rate=2e-3,
        warmup=100,
    )


def universal() -> Recipe:
    """All images, grids and clouds on the plane, from drawn images only: the shipped checkpoint."""
    return Recipe(
        "universal",
        Drawings(batch=256, eps=(1e-3, 1e-1)),
        UniversalNetwork,
        UniversalTask,
        {"modes": 16, "width": 128, "hidden": 128, "depth": 2, "correction": 64, "passes": 2},
        steps=60_000,
        learning_rate=2e-3,
        warmup=200,
        save_every=250,
        compact=True,
    )


def palette() -> Recipe:
    """Colour transfer between pairs of paintings, from the samples of their palettes: the shipped checkpoint."""
    return Recipe(
        "palette",
        Paintings(batch=16, samples=256),
        PaletteIcnn,
        ContinuousTask,
        {"hidden": [64]},
        brenier_loss,
        steps=6_000,
        warmup=200,
        validation_batch=24,
    )


def palettes() -> Recipe:
    """The same between embedded random palettes: no data is read."""
    return replace(palette(), name="palettes", data=Palettes(batch=16, samples=256))


def palette_resnet() -> Recipe:
    """The same with the network of the paper, which reads the pictures; a GPU helps."""
    data = Paintings(batch=16, samples=256, variety=0.0, pictures=True)
    return replace(palette(), name="palette-resnet", data=data, model=ResNetIcnn, learning_rate=3e-4)


def planted() -> Recipe:
    """Random measures in three dimensions whose exact map is known."""
    return replace(palette(), name="planted", data=Planted(batch=16, samples=256, dim=3))


def sphere() -> Recipe:
    """100 suppliers and 10000 customers on the Earth, only quantities change: the shipped checkpoint.

    Places of your own: --set data.supplier_file=FILE.csv --set data.customer_file=FILE.csv
    """
    return Recipe(
        "sphere",
        Sphere(batch=96),
        GroupedPotential,
        GroupedTask,
        steps=16_000,
        learning_rate=2e-3,
        warmup=200,
        validation_batch=16,
        validate_every=1000,
        save_every=500,
    )


def sphere_mlp() -> Recipe:
    """The network of the paper on the same problems."""
    return replace(sphere(), name="sphere-mlp", model=PotentialMLP, learning_rate=1e-3)


def roads() -> Recipe:
    """Travel times that change: suppliers and customers on random road networks, the shipped checkpoint.

    One network whose places stay: --set data.seen=true --from roads
    """
    return Recipe(
        "roads",
        Roads(batch=16, eps=(0.01, 0.05)),
        CostNetwork,
        CostTask,
        steps=6_000,
        learning_rate=3e-3,
        warmup=100,
        validation_eps=0.01,
        validation_batch=16,
        save_every=250,
    )


def costs() -> Recipe:
    """Your own problems with a cost matrix each; minutes on two cores, and fewer with --from roads.

    `metaot.data.write_problems` writes the folder that is named with --set data.path=FOLDER.
    """
    return replace(
        roads(), name="costs", data=ProblemFolder(batch=16, exchanged=0.0), validation_eps=None, steps=1_000
    )


def populations() -> Recipe:
    """The potential behind a population that moves, from snapshots; by default of one that splits in two.

    Your own: --set data.path=SNAPSHOTS.npz --set data.tau=TIME (an array n d for each time, or .npy: times n d)
    """
    return Recipe(
        "populations",
        Snapshots(),
        PotentialNetwork,
        PopulationTask,
        steps=2_000,
        learning_rate=3e-3,
        warmup=100,
        average=0.99,
    )


_ALL = (
    shapes, mnist, mnist_spectral, mnist_mlp, problems, universal,
    palette, palettes, palette_resnet, planted, sphere, sphere_mlp, roads, costs, populations,
)  # fmt: skip
RECIPES: dict[str, Callable[[], Recipe]] = {recipe.__name__.replace("_", "-"): recipe for recipe in _ALL}
