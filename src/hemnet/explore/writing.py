"""The explorer's page of a run: photographs are observed one after another and written into one HTML file."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.machine import device_for, on_this_machine
from hemnet.config.trained import ITERATIONS, override
from hemnet.data import DatasetSpec
from hemnet.data.readers import add_sample
from hemnet.em import HighwayEM
from hemnet.em.options import MOST
from hemnet.errors import HemnetError
from hemnet.explore.observing import Observed, observe
from hemnet.explore.rendering import content, described, record_in, render
from hemnet.explore.showing import Photograph, Selection, of_files, of_split
from hemnet.nets import Segmenter
from hemnet.runs.evaluations import OTHER_DATA
from hemnet.runs.identity import identity
from hemnet.runs.outputs import Origin
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.destinations import named_by, output_file, require_writable
from hemnet.training.inference import explain_memory
from hemnet.using.evaluation import set_iterations
from hemnet.wording import counted, shortened

log = logging.getLogger(__name__)
LARGE = 3_000_000
"""Bytes of a photograph above which it is said how to have smaller ones."""


@dataclass(frozen=True)
class Wish:
    """What a page is to show.

    Attributes:
        paths: images, folders of images, videos; none for photographs of the evaluation split.
        images: the most photographs, 1 or more; None is 4 of a split and 12 of files.
        iterations: T to unroll, 1 or more; None is that of evaluation.
        layer: the EM layer's module path; None is the first.

    Raises:
        HemnetError: a number is below 1, or above `MOST`.
    """

    paths: Sequence[Path] = ()
    images: int | None = None
    iterations: int | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        for name in ("images", "iterations"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise HemnetError(f"--{name} {value}: give a number from 1 to {MOST}")


def explore(
    folder: str | Path,
    wish: Wish,
    which: Checkpoint = "last",
    output: Path | None = None,
    assignments: Sequence[str] = (),
) -> Path:
    """Write the page and return its path; the size of each photograph in it is printed.

    The network is given each photograph whole, at the size of evaluation and once, whatever the run's
    ``inference`` is, since each view would be an EM fit of its own.

    Args:
        folder: the run.
        wish: what to show.
        which: the checkpoint.
        output: the file; None is ``explore[-...].html`` in the run, named by checkpoint, changes, iterations
            and files. If it shows other photographs, the page is written beside it, named by these.
        assignments: ``key=value`` changes to the run's config.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint, layer, data or image; the network has no
            EM layer; an image cannot be read or segmented; or the file cannot be written, or is not a page of
            the same network, settings and photographs.
    """
    run = Run.open(folder)
    decided = () if wish.iterations is None else ITERATIONS
    config = override(run.config, assignments, "explore IMAGES" if wish.paths else "explore", decided)
    if used := build_inference(config).settings:
        log.info("the page shows whole photographs, once; this is not used: inference %s", " ".join(used))
    origin = Origin.of(run, which, config)
    page = output or run.path / _file_name(origin, wish)
    with named_by("--output", page):
        require_writable(page)
    further: dict[str, Any] = {"iterations": wish.iterations, "layer": wish.layer}
    transform = build_eval_transform(config)
    run.config = config = on_this_machine(config, assignments)
    network, spec = restore(run, which)
    name, layer = _layer(run, network, wish.layer)
    set_iterations(network, wish.iterations)
    if (iterations := _iterations(layer)) < 1:
        raise HemnetError("this run evaluates with 0 EM iterations: give a number of them with --iterations")
    if os.path.lexists(page):
        photographs = _content(_select(config, spec, wish).photographs)
        if output is None and not _shows(page, photographs):
            page = page.with_stem(f"{page.stem}{OTHER_DATA}{photographs[:8]}")
        origin.require_own(page, record_in, **further, photographs=photographs)
    selection, digest = _select(config, spec, wish), hashlib.sha256()
    device = device_for(config)
    network.to(device)
    shown = []
    with output_file(page) as part:
        for photograph in selection.photographs:
            with explain_memory([photograph.name]):
                add_sample(digest, photograph.image_HWC, photograph.truth_HW, photograph.name)
                given_CHW = transform.prepare(photograph.image_HWC).to(device)
                seen = observe(network, given_CHW, photograph.image_HWC.shape[:2], name, layer)
            shown.append(described(photograph, seen))
            _say(photograph.name, seen, len(json.dumps(shown[-1])))
        data = content(_facts(config, origin, spec, layer, iterations), spec, layer, shown)
        further["photographs"] = digest.hexdigest()
        part.write_text(render(data, origin.record() | further), "utf-8")
    _conclude(page, len(shown), selection)
    return page


def _file_name(origin: Origin, wish: Wish) -> str:
    parts = [
        "explore",
        *([] if origin.name == "last" else [origin.name]),
        *([] if wish.iterations is None else [f"T{wish.iterations}"]),
        *([] if wish.layer is None else [wish.layer]),
        *(path.stem for path in wish.paths[:1]),
    ]
    return "-".join(parts) + ".html"


def _select(config: DictConfig, spec: DatasetSpec, wish: Wish) -> Selection:
    return of_files(wish.paths, wish.images) if wish.paths else of_split(config, spec, wish.images)


def _content(photographs: Iterable[Photograph]) -> str:
    """Return a hash that tells photographs from others, wherever they are."""
    digest = hashlib.sha256()
    for photograph in photographs:
        add_sample(digest, photograph.image_HWC, photograph.truth_HW, photograph.name)
    return digest.hexdigest()


def _shows(page: Path, photographs: str) -> bool:
    return page.is_file() and (record_in(page) or {}).get("photographs") == photographs


def _layer(run: Run, network: Segmenter, name: str | None) -> tuple[str, HighwayEM]:
    """Return the module path of an EM layer, the first if none is named, and the layer.

    Raises:
        HemnetError: the network has no EM layer, or none of this name.
    """
    layers = {path: module for path, module in network.named_modules() if isinstance(module, HighwayEM)}
    if not layers:
        raise HemnetError(
            f"{run.path} has the head {identity(run.config).head}, which has no EM layer to look into: name "
            "a run of model/head=hem, em or emanet"
        )
    if name is not None and name not in layers:
        raise HemnetError(f"--layer {name}: the EM layers of this network are {', '.join(layers)}")
    if name is None and len(layers) > 1:
        log.info("EM layers: %s; shown is the first, --layer NAME shows another", ", ".join(layers))
    name = name or next(iter(layers))
    return name, layers[name]


def _iterations(layer: HighwayEM) -> int:
    return layer.iterations if layer.iterations_eval is None else layer.iterations_eval


def _say(name: str, seen: Observed, size: int) -> None:
    iterations, components, h, w = seen.codes_TKhw.shape
    log.info("%s: %d KB, of %d components x %d iterations on %d x %d cells",
             name, round(size / 1000), components, iterations, h, w)  # fmt: skip
    if size > LARGE:
        log.info(
            "smaller: fewer --iterations, or data.eval_transform.longest=512 data.eval_transform.size=null"
        )


def _facts(
    config: DictConfig, origin: Origin, spec: DatasetSpec, layer: HighwayEM, iterations: int
) -> dict[str, str]:
    """Return what the head of the page says of the network, by its name."""
    scale = torch.as_tensor(layer.scale(iterations), dtype=torch.float64).detach().reshape(-1)
    different = [f"{h:.3g}" for h in scale.tolist()]
    trained = "" if iterations == layer.iterations else f" (trained with {layer.iterations})"
    return {
        "recipe": f"{origin.experiment}, seed {origin.seed}",
        "checkpoint": origin.name,
        "data": spec.name,
        "head": identity(config).head,
        "iterations T": f"{iterations}{trained}",
        "highway scale h": shortened(list(dict.fromkeys(different)), 4),
        "components K": str(layer.num_components),
        "assignment": layer.assignment,
        "σ²": f"{layer.variance:.4g}" if layer.log_variance is None else "learned",
    }


def _conclude(output: Path, count: int, selection: Selection) -> None:
    size = output.stat().st_size / 1e6
    print(f"{counted(count, 'photograph')} of {selection.total}, {size:.1f} MB, written to {output}")
    if selection.left_out:
        print(f"left out: {selection.left_out}")
