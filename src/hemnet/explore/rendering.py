"""The page as HTML: a template, its style and script, and the data as JSON; it refers to nothing outside.

Shapes: H and W pixels of a photograph.
"""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hemnet.data import DatasetSpec
from hemnet.data.transforms import Target, resize_image, resize_mask
from hemnet.em import HighwayEM
from hemnet.explore.observing import Observed
from hemnet.explore.packing import packed, picture
from hemnet.explore.showing import Photograph

HERE = Path(__file__).parent
LONGEST = 960
"""Longer side of a photograph on the page, in pixels; larger ones are shrunk."""
RECORD = re.compile(r'<meta name="hemnet-explore" content="([^"]*)">')


def described(photograph: Photograph, seen: Observed) -> dict[str, Any]:
    """Return a photograph and what EM does with it as plain containers, which explorer.js reads."""
    height, width = photograph.image_HWC.shape[:2]
    size = Target("size", None, min(LONGEST, max(height, width))).of(height, width)
    truth_HW = photograph.truth_HW
    return {
        "name": photograph.name,
        "width": size[1],
        "height": size[0],
        "image": picture(resize_image(photograph.image_HWC, size)),
        "cells": [round(number, 6) for number in seen.cells],
        "z": packed(seen.codes_TKhw),
        "entropy": packed(seen.entropy_Thw),
        "occupancy": [[float(f"{share:.4g}") for share in row] for row in seen.occupancy_TK],
        "likelihood": [float(f"{value:.7g}") for value in seen.log_likelihood],
        "error": [None if math.isnan(value) else float(f"{value:.4g}") for value in seen.error],
        "features": packed(seen.features_hwc),
        "reconstruction": packed(seen.reconstruction_Thwc),
        "explained": None if math.isnan(seen.explained) else round(seen.explained, 4),
        "prediction": packed(resize_mask(seen.prediction_HW, size)),
        "truth": None if truth_HW is None else packed(resize_mask(np.ascontiguousarray(truth_HW), size)),
    }


def content(
    facts: dict[str, str], spec: DatasetSpec, layer: HighwayEM, shown: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return all that a page shows as plain containers, which explorer.js reads.

    Args:
        facts: what its head says of the network, by name; "recipe" is the heading.
        spec: the classes.
        layer: the EM layer.
        shown: photographs as `described` returns them.
    """
    classes = zip(spec.classes, spec.palette, strict=True)
    return {
        "facts": facts,
        "classes": [{"name": name, "color": list(color)} for name, color in classes],
        "ignored": list(spec.ignore_color),
        "rises": layer.assignment == "gaussian" and layer.normalize == "none",
        "photographs": shown,
    }


def render(data: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the page as HTML; names of classes and photographs are shown as text, whatever is in them.

    Args:
        data: what `content` returns.
        about: what the page was made from, which `record_in` reads.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    parts = {name: Markup((HERE / f"explorer.{name}").read_text("utf-8")) for name in ("css", "js")}
    # "<" would let a name end the element of the data. ASCII, for names of files that are no text.
    text = Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c"))
    template = environment.get_template("explorer.html.jinja")
    return template.render(facts=data["facts"], record=json.dumps(about), data=text, **parts)


def record_in(page: Path) -> dict[str, Any] | None:
    """Return the record in a page that `render` made; None if the file is no such page."""
    with page.open(encoding="utf-8", errors="replace") as file:
        found = RECORD.search(file.read(20_000))  # it is in the head
    try:
        record = json.loads(html.unescape(found[1])) if found else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
