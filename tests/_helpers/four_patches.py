"""A run whose components are known: of photographs with four patches of colour, component k holds patch k."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _helpers.untrained import untrained
from PIL import Image
from torch import Tensor, nn

from hemnet.config.build import restore
from hemnet.data import normalize
from hemnet.em import HighwayEM
from hemnet.runs.run import Run

SIZE = (128, 192)
CELLS = (16, 24)
"""Of the feature map, whose stride is 8."""
ITERATIONS = 5
COLOURS = np.array([[230, 30, 30], [30, 200, 40], [40, 60, 230], [240, 220, 40]], np.uint8)
LAYER = "network.head.context.em"


def patches(order: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[np.ndarray, np.ndarray]:
    """Return a photograph, (128, 192, 3) uint8, and its mask: in reading order the patches ``order``."""
    half = np.kron(np.array(order).reshape(2, 2), np.ones((SIZE[0] // 2, SIZE[1] // 2), int))
    noise = np.random.default_rng(0).integers(-3, 4, (*SIZE, 3))
    return (COLOURS[half] + noise).clip(0, 255).astype(np.uint8), half.astype(np.uint8)


def four_patches(folder: Path) -> Run:
    """Return a run whose validation split has the photographs ``ahead`` and, mirrored, ``turned``."""
    root = folder / "camvid"
    for split in ("train", "val"):
        for part in (split, f"{split}annot"):
            (root / part).mkdir(parents=True)
        for name, order in (("ahead", (0, 1, 2, 3)), ("turned", (1, 0, 3, 2))):
            image, mask = patches(order)
            Image.fromarray(image).save(root / split / f"{name}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{name}.png")
    settings = ["model.head.assignment=gaussian", f"model.head.iterations={ITERATIONS}", f"data.root={root}"]
    centres_KC = features(untrained(folder / "draft", *settings)[0], patches()[0])[_middles()]
    distance = torch.cdist(centres_KC, centres_KC).square() + 1e9 * torch.eye(4)
    run, _ = untrained(folder / "run", *settings, f"model.head.variance={float(distance.min())}")
    path = run.checkpoint()
    content = torch.load(path, weights_only=True)
    content["state_dict"][f"{LAYER}.means"].copy_(centres_KC)
    torch.save(content, path)
    return run


def layer_of(network: nn.Module) -> HighwayEM:
    """Return the EM layer of the run's network."""
    return network.get_submodule(LAYER.removeprefix("network."))


def data_of(page: Path) -> dict[str, Any]:
    """Return the data of an explorer's page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1])


def features(run: Run, image_HWC: np.ndarray) -> Tensor:
    """Return what the EM layer is given for a photograph: (N, C), positions row by row."""
    network, _ = restore(run)
    seen: list[Tensor] = []
    layer_of(network).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(normalize(image_HWC)[None])
    return seen[0][0].flatten(1).T


def _middles() -> list[int]:
    """The positions in the middle of the four patches, in reading order."""
    rows, columns = ([side // 4, 3 * side // 4] for side in CELLS)
    return [row * CELLS[1] + column for row in rows for column in columns]
