"""All sources that draw their problems: JSON holds them, and a problem depends on its seed and split only."""

import json
from dataclasses import replace

import pytest
import torch

from metaot.data import Drawings, Palettes, Planted, Shapes, Source, Sphere, Split, source_from_json
from metaot.recipes import shapes

SOURCES: dict[str, Source] = {
    "shapes": Shapes(batch=6, eps=(0.1, 1.0), side=8),
    "drawings": Drawings(batch=8, sides=(8,)),
    "palettes": Palettes(batch=6, samples=40),
    "planted": Planted(batch=6, samples=40, dim=4),
    "sphere": Sphere(batch=4, suppliers=20, customers=300, world="synthetic", demand="patterns"),
}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())


def drawn(source: Source, split: Split, seed: int) -> list[torch.Tensor]:
    problem = source.split(split).sample(torch.Generator().manual_seed(seed))
    return [value for value in vars(problem).values() if isinstance(value, torch.Tensor)]


@every_source
def test_a_problem_depends_on_the_seed_and_the_split_only(source: Source) -> None:
    first = drawn(source, "train", 3)
    assert all(map(torch.equal, first, drawn(source, "train", 3)))
    others = [drawn(source, "train", 4), drawn(source, "validation", 3), drawn(source, "test", 3)]
    assert not any(torch.equal(first[0], other[0]) for other in others)
    assert not torch.equal(others[1][0], others[2][0])


@every_source
def test_json_holds_a_source(source: Source) -> None:
    settings = replace(shapes(), data=source).to_json()["data"]
    assert source_from_json(json.loads(json.dumps(settings))) == source
