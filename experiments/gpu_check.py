"""Does everything work on this GPU, and how fast? One page, in at most 25 minutes.

    make gpu-check                       # with a GPU; writes runs/gpu_check/README.md
    python experiments/gpu_check.py --dry    # on a CPU, tiny: shows that the check itself runs, no more

The sections come in the order of what they teach: the Triton kernels against float64, engines timed, eagerly
and as CUDA graphs, other choices of blocks, 60 steps of voc_hem's network in four ways, two deterministic
runs from cold caches, validation of images of 40 sizes, a run that is stopped and resumed, and evaluation,
prediction and export of it. No data set is needed. Each section is a process of its own, so that one which
fails, hangs or breaks the device ends no other, and the page is written anew after each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_commands
import gpu_measures

# Seconds that a section may take; together 25 minutes.
SECTIONS: dict[str, tuple[Callable[..., list[str]], int]] = {
    "machine": (gpu_measures.machine, 30),
    "kernels": (gpu_measures.kernels, 240),
    "engines": (gpu_measures.engines, 240),
    "blocks": (gpu_measures.blocks, 180),
    "steps": (gpu_measures.steps, 300),
    "determinism": (gpu_commands.determinism, 180),
    "sizes": (gpu_measures.many_sizes, 60),
    "resume": (gpu_commands.resume, 180),
    "use": (gpu_commands.use, 90),
}
TITLES = {
    "machine": "Machine",
    "kernels": "Triton kernels against float64",
    "engines": "Engines alone: milliseconds forward + backward",
    "blocks": "Choices of blocks: milliseconds forward + backward of the engine triton",
    "steps": "60 training steps of voc_hem's network",
    "determinism": "Two deterministic runs, each from a cold cache",
    "sizes": "Validation of 40 images, each of its own size",
    "resume": "Stopped and resumed",
    "use": "Evaluate, predict, export",
}


def run_section(name: str, folder: Path, dry: bool) -> dict[str, Any]:
    """Run a section in a process of its own; return its lines, or what ended it, and its seconds."""
    started = time.monotonic()
    log = folder / f"{name}.log"
    command = [
        sys.executable,
        __file__,
        "--section",
        name,
        "--output",
        str(folder),
        *(["--dry"] if dry else []),
    ]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if dry else {})
    limit = SECTIONS[name][1] * (20 if dry else 1)
    with log.open("w", encoding="utf-8") as out:
        try:
            code: int | str = subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                timeout=limit, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = f"no end after {limit} s"
    answer = folder / f"{name}.json"
    lines = json.loads(answer.read_text("utf-8")) if answer.exists() else []
    failed = code != 0
    if failed:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-12:])
        lines = [*lines, f"**FAILED** ({code}); the end of {log.name}:", "", "```", tail, "```"]
    return {"lines": lines, "failed": failed, "seconds": time.monotonic() - started}


def write_page(folder: Path, found: dict[str, dict[str, Any]], dry: bool) -> Path:
    """Write the page of what is known so far."""
    failed = [TITLES[name] for name, section in found.items() if section["failed"]]
    missing = [TITLES[name] for name in SECTIONS if name not in found]
    said = f"{len(failed)} of {len(found)} sections failed" + (f": {', '.join(failed)}" if failed else "")
    page = [
        "# GPU check",
        "",
        *(["A dry run on a CPU: its timings mean nothing.", ""] if dry else []),
        said + ".",
    ]
    page += [f"Not run: {', '.join(missing)}."] if missing else []
    for name, section in found.items():
        page += ["", f"## {TITLES[name]}", "", *section["lines"], "", f"{section['seconds']:.0f} s."]
    path = folder / "README.md"
    path.write_text("\n".join(page) + "\n", "utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the check; return 1 if a section failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_check"), help="the folder of the page")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="these sections")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny sizes, kernels interpreted")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.section:
        section = SECTIONS[options.section][0]
        answer = folder / f"{options.section}.json"
        answer.unlink(missing_ok=True)
        lines = section(gpu_measures.DRY if options.dry else gpu_measures.FULL, folder)
        answer.write_text(json.dumps(lines), "utf-8")
        return 0
    if not options.dry and not gpu_measures.has_gpu():
        print("torch finds no GPU here; --dry runs the check on a CPU")
        return 2
    found: dict[str, dict[str, Any]] = {}
    for name in options.only:
        (folder / f"{name}.json").unlink(missing_ok=True)
        found[name] = run_section(name, folder, options.dry)
        page = write_page(folder, found, options.dry)
        verdict = "FAILED" if found[name]["failed"] else "done"
        print(f"{TITLES[name]}: {verdict}, {found[name]['seconds']:.0f} s", flush=True)
    print(f"written to {page}")
    return int(any(section["failed"] for section in found.values()))


if __name__ == "__main__":
    sys.exit(main())
