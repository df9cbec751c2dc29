"""What a network costs: ``python -m hemnet.cost RUN``, or ``python -m hemnet.cost experiment=NAME``.

Prints FLOPs (an addition and a multiplication count as two; only matrix products and convolutions are
counted), parameters, latency and, on a GPU, peak memory of a forward pass in evaluation mode.

Shapes: B images, H and W pixels.
"""

import hemnet.lab

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hemnet.config.command_line import override, parse, run_entry
from hemnet.config.compose import load
from hemnet.data import DataError
from hemnet.errors import HemnetError
from hemnet.runs.provenance import device_name
from hemnet.runs.run import Run
from hemnet.storage.files import write_json
from hemnet.storage.places import absolute

if TYPE_CHECKING:
    from torch import Tensor

    from hemnet.nets import Segmenter


def measure(network: "Segmenter", image_BCHW: "Tensor", repeats: int) -> dict[str, float | None]:
    """Time forward passes in sequence, after warm-up.

    Returns:
        ``median_ms``, ``fastest_ms``, ``slowest_ms`` of a pass, and ``peak_memory_mib``, the peak memory of a
        pass besides weights and images: on CUDA only, elsewhere None.
    """
    import torch  # here, as all that takes seconds to import

    from hemnet.bench.timing import peak_extra_memory, seconds

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
    network: "Segmenter", size: tuple[int, int], *, batch: int = 1, repeats: int = 20, device: str = "cpu"
) -> dict[str, Any]:
    """Return FLOPs, parameters, latency and memory of a network in evaluation mode, in float32.

    Args:
        network: the segmenter; moved to ``device``, in channels-last order as the project runs it.
        size: (height, width) of the images.
        batch: images per pass.
        repeats: timed passes, after a fifth as many for warm-up.
        device: "cpu", "cuda" or another of torch's.
    """
    import torch

    from hemnet.nets.flops import count_flops, count_parameters

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


def _network(run: Path | None, assignments: list[str], classes: int | None) -> "tuple[Segmenter, str]":
    opened = None if run is None else Run.open(run)
    config = load([*assignments]) if opened is None else override(opened.config, assignments)
    from hemnet.config.build import build_network, restore

    if opened is not None:
        opened.config = config
        return restore(opened)[0], str(opened.path)
    classes = classes or _classes(config)
    return build_network(config, classes, pretrained=False), f"{config.name}, {classes} classes"


def _classes(config: DictConfig) -> int:
    from hemnet.config.build import build_data

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


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "run", nargs="?", type=absolute, help="run directory; without one, experiment=NAME or other key=value"
    )
    parser.add_argument(
        "--size", nargs=2, type=int, default=(513, 513), metavar=("H", "W"), help="default: 513 513"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="images per pass; default: 1")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="timed passes; default: 20")
    parser.add_argument(
        "--device", help="cpu, cuda or another of torch's; default: cuda where there is a GPU"
    )
    parser.add_argument("--classes", type=int, metavar="K", help="without a run; default: those of the data")
    parser.add_argument("--output", type=absolute, metavar="FILE", help="also write the results as JSON")
    options, assignments = parse(parser)
    if min(*options.size, options.batch, options.repeats) < 1:
        raise HemnetError("--size, --batch and --repeats take numbers of at least 1")
    network, name = _network(options.run, assignments, options.classes)
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = cost(network, tuple(options.size), batch=options.batch, repeats=options.repeats, device=device)
    _print(found, name)
    if options.output is not None:
        write_json(options.output, {"network": name, **found})


if __name__ == "__main__":
    run_entry(_entry)
