"""The hypernetworks by name, as checkpoints call them."""

from metaot.models.hyper import HyperNetwork
from metaot.models.palette import PaletteIcnn
from metaot.models.resnet import ResNetIcnn

HYPERNETWORKS: dict[str, type[HyperNetwork]] = {"PaletteIcnn": PaletteIcnn, "ResNetIcnn": ResNetIcnn}
