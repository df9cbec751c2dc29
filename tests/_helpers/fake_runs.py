"""Run directories as training leaves them, with known numbers and no training."""

import csv
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hemnet.config.compose import load
from hemnet.runs.evaluations import FOLDER, at_iterations
from hemnet.runs.redaction import redacted

CLASSES = ("red", "green", "blue", "plain")


@cache
def _config(overrides: tuple[str, ...]) -> DictConfig:
    return redacted(load(["experiment=synthetic_hem", *overrides, "run_dir=/elsewhere", "seed=0"]))


def write_run(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    seed: int = 0,
    sweep: str | None = None,
    miou: float | None = 0.8,
    status: str | None = "finished",
    error: str | None = None,
    rows: Sequence[Mapping[str, float]] = ({"step": 1499},),
    started: str = "2026-01-01T12:00:00+0000",
    classes: Sequence[str] = CLASSES,
    keys: Mapping[str, Any] | None = None,
    parts: Sequence[str] | None = None,
    pixels: Mapping[str, int] | None = None,
) -> Path:
    """Write a run directory.

    Args:
        path: where.
        overrides: of the recipe; each set of them is composed once.
        status: None leaves result.json out.
        rows: of metrics.csv; a ``val/miou`` at the last step becomes ``miou``.
        keys: dotted keys of the configuration that are set after it is composed, which is quicker.
        parts: what config.yaml has, at the top; by default all.
        pixels: the labelled pixels of the validation split; None as of older versions, which left them out.
    """
    path.mkdir(parents=True)
    config = _config(tuple(overrides)).copy()
    config.seed = config.data.seed = seed
    config.run_dir, config.sweep = str(path), sweep
    config.logger.csv.save_dir = str(path)
    for key, value in (keys or {}).items():
        OmegaConf.update(config, key, value)
    kept = config if parts is None else OmegaConf.masked_copy(config, [*parts])
    OmegaConf.save(kept, path / "config.yaml")
    environment = {"started": started, "git": {"revision": "0123456789abcdef", "modified": False}}
    (path / "environment.json").write_text(json.dumps(environment))
    last = max((row["step"] for row in rows), default=0)
    if status == "finished" and miou is not None:
        rows = [
            {**row, "val/miou": miou} if row["step"] == last and "val/miou" in row else row for row in rows
        ]
    if rows:
        names = list(dict.fromkeys(["step", *(name for row in rows for name in row)]))
        with (path / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    if status is not None:
        scores = {} if status != "finished" else {
            "val/miou": miou, "val/mean_accuracy": miou, "val/pixel_accuracy": miou,
            **{f"val/iou/{name}": miou if i else None for i, name in enumerate(classes)},
        }  # fmt: skip
        about = {"status": status, "experiment": config.name, "seed": seed}
        result: dict[str, Any] = {
            **about,
            "metrics": scores,
            "seconds": 360.0,
            "steps": 1 + int(max((row["step"] for row in rows), default=1499)),
            "device": "cpu (test)",
        }
        known = {"error": error, "labelled_pixels": pixels}
        result |= {key: value for key, value in known.items() if value is not None}
        (path / "result.json").write_text(json.dumps(result))
    return path


def change(path: Path, key: str, value: Any) -> None:
    """Set a dotted key in a config.yaml, or a key of a JSON file; a key of its metrics begins with val/."""
    if path.suffix == ".yaml":
        config = OmegaConf.load(path)
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        OmegaConf.save(config, path)
        return
    content = json.loads(path.read_text("utf-8"))
    (content["metrics"] if key.startswith("val/") else content)[key] = value
    path.write_text(json.dumps(content), "utf-8")


def write_evaluation(run: Path, T: int | None, miou: float | None, *, checkpoint: str | None = None) -> Path:
    """Write the result of an evaluation with T iterations, of this checkpoint by its hash; return where."""
    place = at_iterations(run / FOLDER / "last", T)
    place.mkdir(parents=True)
    result = {"iterations_eval": T, "checkpoint_sha256": checkpoint, "metrics": {"val/miou": miou}}
    (place / "result.json").write_text(json.dumps(result))
    return place


def plausible_rows(
    T: int, h: float, seed: int, *, steps: int = 1500, every: int = 25, final: float = 0.85
) -> list[dict[str, float]]:
    """Return the rows of a metrics.csv with every metric of the probes, shaped as theory has it."""
    rng = np.random.default_rng([T, round(100 * h) + 1000, seed])
    rows: list[dict[str, float]] = []
    for step in range(every, steps + 1, every):
        done = step / steps
        row = {
            "step": step - 1,
            "train/loss": 1.2 * np.exp(-2 * done) + 0.05 * rng.random(),
            "train/lr": 2e-3,
        }
        fade = (0.25 + 0.3 * done) * (1 - abs(h)) + abs(h)
        for t in range(T + 1):
            row[f"gradient/means/{t:02d}"] = fade ** (T - t) * np.exp(0.1 * rng.normal()) if t < T else 1.0
        weights = np.array([0.3 * fade ** (T - 1 - t) for t in range(T)] + [1.0])
        row |= {f"gradient/share/{t:02d}": share for t, share in enumerate(weights / weights.sum())}
        row["gradient/means_last"] = 0.01 * np.exp(-done)
        for i, stage in enumerate(("stem", "layer1", "layer2", "layer3", "layer4", "all")):
            row[f"gradient/backbone/{stage}"] = (0.2 + 0.1 * i) * (1 + h) * np.exp(-done + 0.2 * rng.normal())
        rows.append(row)
        if step % (steps // 4) == 0:
            rows.append(
                {"step": step - 1, "val/miou": final * (1 - np.exp(-4 * done)), "val/loss": 1 - done / 2}
            )
            gain, rate = 4 * done + 1, 1 - 0.6 * (1 - h)
            inside: dict[str, float] = {"step": step - 1}
            for t in range(T + 1):
                inside[f"em/log_likelihood/{t:02d}"] = -120 + gain * (1 - rate**t) + 0.05 * rng.normal()
                inside[f"em/components/{t:02d}"] = 8 - 3 * (1 - rate**t)
                inside[f"em/entropy/{t:02d}"] = 1.5 * rate**t + 0.1
                if t < T:
                    inside[f"em/step_length/{t:02d}"] = 0.5 * rate**t
            rows.append(inside)
    seconds = 0.08 + 0.004 * T + 0.002 * rng.random() + 0.001 * (h > 0)
    cost = {"seconds_per_step": seconds, "peak_memory_mib": 900.0, "parameters": 1_000_000.0}
    cost |= {"gflops": 3.2 + 0.1 * T, "em_parameters": 4096.0}
    rows.append({"step": steps - 1, **{f"cost/{name}": value for name, value in cost.items()}})
    return rows


def write_study(
    root: Path,
    *,
    depths: Sequence[int] = (1, 3, 8),
    scales: Sequence[float] = (0.5,),
    seeds: int = 3,
    heads=("fcn",),
) -> None:
    """Write em and hem over T, h and seeds, and further heads over seeds, as one sweep."""
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        luck = 0.01 * rng.normal()
        for T in depths:
            for h in (0.0, *scales):
                miou = 0.86 + luck - 0.004 * T * (1 - h) + 0.004 * rng.normal()
                head = "em" if h == 0 else "hem"
                overrides = (
                    f"model/head={head}",
                    f"model.head.iterations={T}",
                    f"model.head.highway_scale={h}",
                )
                path = root / "sweeps" / "depth" / f"{head}_T{T}_h{h}_s{seed}"
                rows = plausible_rows(T, h, seed, final=miou)
                write_run(path, overrides, seed=seed, sweep="depth", miou=miou, rows=rows)
        for i, head in enumerate(heads):
            miou = 0.42 + 0.1 * i + 0.02 * rng.normal()
            rows = [
                {"step": s, "val/miou": miou * s / 1500, "train/loss": 1.0} for s in (375, 750, 1125, 1500)
            ]
            rows.append(
                {"step": 1500, "cost/seconds_per_step": 0.07, "cost/parameters": 9e5, "cost/gflops": 3.0}
            )
            path = root / "sweeps" / "depth" / f"{head}_s{seed}"
            write_run(path, (f"model/head={head}",), seed=seed, sweep="depth", miou=miou, rows=rows)
