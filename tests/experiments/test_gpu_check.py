"""`make gpu-check` on a CPU: every section runs, and what fails is on the page and ends no other."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import gpu_check
import gpu_commands
import gpu_measures


def test_the_sections_take_25_minutes_at_most():
    assert sum(seconds for _, seconds in gpu_check.SECTIONS.values()) <= 25 * 60
    assert set(gpu_check.SECTIONS) == set(gpu_check.TITLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernels", "engines", "steps", "sizes"])
def test_a_section_that_measures(name, tmp_path):
    """In this process, which interprets the kernels already."""
    section = gpu_check.SECTIONS[name][0]
    lines = section(gpu_measures.DRY, tmp_path)
    assert any(character.isdigit() for character in "".join(lines))
    page = gpu_check.write_page(tmp_path, {name: {"lines": lines, "failed": False, "seconds": 1.0}}, True)
    assert gpu_check.TITLES[name] in page.read_text()


def test_kernels_that_are_wrong_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_measures, "_errors", lambda *_: {"readout": 0.5, "mass": 0.0})
    with pytest.raises(ArithmeticError, match="beyond the tolerance: float32 C=20 K=5: readout"):
        gpu_measures.kernels(gpu_measures.DRY, tmp_path)


@pytest.mark.slow
def test_a_section_is_a_process_and_the_page_is_written(tmp_path, capsys):
    assert gpu_check.main(["--dry", "--only", "machine", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_text()
    assert "0 of 1 sections failed." in page
    assert "a trial of the kernels: works" in page


@pytest.mark.parametrize(("code", "said"), [(1, "FAILED"), (None, "no end after")])
def test_what_fails_or_hangs_is_on_the_page(code, said, tmp_path, monkeypatch):
    def run(command, *, stdout, timeout, **_):
        stdout.write("Traceback: the reason\n")
        if code is None:
            raise gpu_check.subprocess.TimeoutExpired(command, timeout)
        return gpu_check.subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    assert gpu_check.main(["--dry", "--only", "machine", "use", "--output", str(tmp_path)]) == 1
    page = (tmp_path / "README.md").read_text()
    assert "2 of 2 sections failed" in page
    assert said in page
    assert "Traceback: the reason" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert gpu_check.main(["--output", str(tmp_path)]) == 2
    assert "--dry runs the check on a CPU" in capsys.readouterr().out


@pytest.mark.long
def test_the_sections_that_run_commands(tmp_path: Path):
    dry = gpu_measures.DRY
    assert "equal bit by bit" in gpu_commands.determinism(dry, tmp_path)[0]
    assert "equal the other's" in gpu_commands.resume(dry, tmp_path)[0]
    assert len(gpu_commands.use(dry, tmp_path)) == 4
    assert json.loads((tmp_path / "whole" / "result.json").read_text())["status"] == "finished"
