"""What a network costs: FLOPs, parameters, latency and memory, see `hemnet.cost`.

Shapes: B images, H and W pixels.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from hemnet.bench.timing import peak_extra_memory, seconds
from hemnet.config.build import build_data, build_network, restore
from hemnet.config.machine import device_for, on_this_machine
from hemnet.data import DataError
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.flops import count_flops, count_parameters
from hemnet.runs.provenance import device_name
from hemnet.runs.redaction import redact_argument
from hemnet.runs.run import Run
from hemnet.storage.destinations import JsonOutput
from hemnet.wording import counted


def measure(network: Segmenter, image_BCHW: Tensor, repeats: int) -> dict[str, float | None]:
    """Time forward passes in sequence, after warm-up.

    Returns:
        ``median_ms``, ``fastest_ms``, ``slowest_ms`` of a pass, and ``peak_memory_mib``, the peak memory of a
        pass besides weights and images: on CUDA only, elsewhere None.
    """
    device = image_BCHW.device
    with torch.inference_mode():
        for _ in range(max(2, repeats // 5)):
            network(image_BCHW)
        times = [1000 * seconds(lambda: network(image_BCHW), device) for _ in range(repeats)]
        peak = peak_extra_memory(lambda: network(image_BCHW), device) / 2**20 if image_BCHW.is_cuda else None
    return {
        "median_ms": statistics.median(times),
        "fastest_ms": min(times),
        "slowest_ms": max(times),
        "peak_memory_mib": peak,
    }


def cost(
    network: Segmenter, size: tuple[int, int], *, batch: int = 1, repeats: int = 20, device: str = "cpu"
) -> dict[str, Any]:
    """Return FLOPs, parameters, latency and memory of a network in evaluation mode, in float32.

    Args:
        network: the segmenter; moved to ``device``, in channels-last order as the project runs it.
        size: (height, width) of the images.
        batch: images per pass.
        repeats: timed passes, after a fifth as many for warm-up.
        device: "cpu", "cuda" or another of torch's.
    """
    network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image_BCHW = torch.randn(batch, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    return {
        "size": list(size),
        "batch": batch,
        "flops": count_flops(network, image_BCHW),
        "parameters": count_parameters(network),
        "latency": measure(network, image_BCHW, repeats),
        "repeats": repeats,
        "precision": "float32",
        "device": device_name("cpu" if device == "cpu" else "auto"),
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "torch": torch.__version__,
    }


def _network(
    run: Run | None, config: DictConfig, assignments: list[str], classes: int | None
) -> tuple[Segmenter, str]:
    if run is not None:
        run.config = on_this_machine(config, assignments)
        return restore(run)[0], str(run.path)
    classes = classes or _classes(config)
    return build_network(
        config, classes, pretrained=False
    ), f"{config.name}, {counted(classes, 'class', 'classes')}"


def _require_device(name: str) -> None:
    """Raise a HemnetError unless torch has this device here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise HemnetError(f"--device {name}: {reason}. Leave it out, or give --device cpu") from error


def _classes(config: DictConfig) -> int:
    try:
        return build_data(config).spec.num_classes
    except DataError as error:
        raise HemnetError(f"how many classes? Give --classes N, or the data: {error}") from error


def _print(found: dict[str, Any], name: str) -> None:
    height, width = found["size"]
    table = Table(title=f"{escape(name)}: {found['batch']} x {height} x {width}", title_justify="left")
    for heading in ("", "total", "backbone", "head"):
        table.add_column(heading, justify="right" if heading else "left")
    parts = ("total", "backbone", "head")
    table.add_row("GFLOPs", *(f"{found['flops'][part] / 1e9:.4g}" for part in parts))
    table.add_row("parameters (M)", *(f"{found['parameters'][part] / 1e6:.4g}" for part in parts))
    console = Console()
    console.print(table)
    if auxiliary := found["parameters"]["auxiliary"]:
        console.print(
            f"Of the total, {auxiliary / 1e6:.4g} M parameters are of an auxiliary head (training only)."
        )
    latency = found["latency"]
    where = found["device"] + (f", {found['threads']} threads" if found["threads"] else "")
    console.print(
        f"Latency: {latency['median_ms']:.1f} ms, the median of {found['repeats']} passes after warm-up "
        f"({latency['fastest_ms']:.1f} to {latency['slowest_ms']:.1f}), {found['precision']}; {where}"
    )
    memory = latency["peak_memory_mib"]
    console.print(
        "Peak memory: measured on CUDA only."
        if memory is None
        else f"Peak memory: {memory:.0f} MiB besides weights and images."
    )


def report_cost(
    run: Run | None,
    config: DictConfig,
    assignments: list[str],
    *,
    size: tuple[int, int],
    batch: int,
    repeats: int,
    device: str | None,
    classes: int | None,
    output: Path | None,
) -> None:
    """Print what a network costs, and write it as JSON if there is a file for it.

    Args:
        run: the trained run; None for a network of the configuration with random weights.
        config: the configuration, that of the run changed by the assignments or composed of them.
        assignments: the ``key=value`` that the user gave.
        size: height and width of the images.
        batch: images per pass.
        repeats: timed passes.
        device: None is cuda where there is a GPU, else cpu.
        classes: of a network without a run; None takes those of the data.
        output: the JSON file.

    Raises:
        HemnetError: the checkpoint or the device is missing; or the file cannot be written, or is another's.
    """
    device = device_for(config, device)
    _require_device(device)
    network, name = _network(run, config, assignments, classes)
    about = {"made_by": "hemnet cost", "network": name, "overrides": list(map(redact_argument, assignments))}
    results = JsonOutput(output, "--output", about | {"size": list(size), "batch": batch, "repeats": repeats})
    found = cost(network, size, batch=batch, repeats=repeats, device=device)
    _print(found, name)
    results.write(found)
