"""The package as users install it: built, installed by itself, and used from an empty folder."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from _helpers.waiting import CEILING

from hemnet import __version__, lab
from hemnet.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
BUILT = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees no sources of this checkout: only what is installed beside its Python."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=variables | {"OMP_NUM_THREADS": "1"}, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=CEILING, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist and the wheel, without a network; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def environment(folder: Path, built: Path, others: Iterable[str | Path]) -> Path:
    """Make an environment of the wheel and of the packages in the folders ``others``; return its bin/."""
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder]
    done = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=built)
    assert done.returncode == 0, done.stderr
    done = run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=built)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    # After the installation: pip would remove a hemnet that it found in these folders. Python does not read
    # the .pth files in them, so that an editable hemnet there stays hidden.
    (packages / "others.pth").write_text("\n".join(map(str, others)))
    found = run(folder / "bin" / "python", "-c", "import hemnet; print(hemnet.__file__)", cwd=built)
    assert found.stdout.strip() == str(packages / "hemnet" / "__init__.py"), found.stderr
    return folder / "bin"


def needs(name: str, found: set[str]) -> set[str]:
    """Add to ``found`` the distribution and those that it needs, as far as they are installed here."""
    try:
        requirements = distribution(name).requires or ()
    except PackageNotFoundError:  # needed on another platform
        return found
    if name not in found:
        found.add(name)
        for line in requirements:
            if "extra ==" not in line:
                needs(re.split(r"[^\w.-]", line)[0], found)
    return found


@pytest.fixture(scope="module")
def torch_alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin/ of an environment of hemnet, torch and what torch needs: links to what is here."""
    folder = tmp_path_factory.mktemp("torch_alone")
    (links := folder / "links").mkdir()
    for name in needs("torch", set()):
        files = distribution(name)
        for top in {file.parts[0] for file in files.files or ()} - {"..", "__pycache__"}:
            if not (links / top).exists():
                (links / top).symlink_to(str(files.locate_file(top)))
    return environment(folder / "environment", built, [links])


@BUILT
def test_training_and_evaluation_from_an_empty_folder(built: Path, tmp_path: Path) -> None:
    here = [entry for entry in sys.path if entry.endswith("site-packages")]
    hemnet = environment(tmp_path / "environment", built, here) / "hemnet"
    (work := tmp_path / "work").mkdir()
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "--message=theirs"]
    assert run("git", "init", cwd=tmp_path).returncode == run("git", *own, cwd=tmp_path).returncode == 0
    assert run(hemnet, "--version", cwd=work).stdout.strip() == __version__
    short = ["trainer.max_steps=2", "trainer.max_epochs=null", "data.train.length=32", "data.val.length=4"]
    done = run(hemnet, "train", "experiment=synthetic_hem", *short, "logger=csv", "run_dir=run", cwd=work)
    assert done.returncode == 0, done.stderr
    assert json.loads((work / "run" / "result.json").read_text())["steps"] == 2
    assert [path.name for path in work.iterdir()] == ["run"]
    about = json.loads((work / "run" / "environment.json").read_text())
    assert about["git"] == {"revision": None, "modified": False}, "of the user's repository, not of hemnet"
    done = run(hemnet, "evaluate", "run", cwd=work)
    assert done.returncode == 0, done.stderr
    assert (work / "run" / "evaluation" / "last" / "result.json").is_file()


@BUILT
def test_the_library_needs_torch_alone(torch_alone: Path, tmp_path: Path) -> None:
    script = (
        "import torch; from hemnet.em import HighwayEM; x = torch.randn(2, 8, 5, 6, requires_grad=True);"
        "HighwayEM(8, num_components=3)(x).sum().backward(); print(x.grad.isfinite().all().item())"
    )
    done = run(torch_alone / "python", "-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@BUILT
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_the_lab_names_it_in_one_line(name: str, torch_alone: Path, tmp_path: Path) -> None:
    for command in ([torch_alone / "hemnet", name], [torch_alone / "python", "-m", f"hemnet.{name}"]):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 2
        assert re.fullmatch(r"error: .*hydra.*pip install 'hemnet\[lab\]'\n", done.stderr)


@BUILT
def test_the_wheel_has_the_parts_and_recipes_and_no_results(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    shipped = {
        f"hemnet/{path.relative_to(ROOT)}"
        for folder in ("conf", "experiments")
        for path in (ROOT / folder).rglob("*.yaml")
        if "results" not in path.parts
    }
    beside = {name for name in names if name.startswith(("hemnet/conf/", "hemnet/experiments/"))}
    assert beside == shipped
    assert "hemnet/py.typed" in names
    assert {f"hemnet/explore/explorer.{ending}" for ending in ("html.jinja", "css", "js")} <= names
    # All Hydra programs of an environment would import what is in hydra_plugins.
    assert {name.split("/")[0] for name in names} == {"hemnet"}


@BUILT
def test_the_description_has_no_links_into_the_repository(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(wheel.read(name).decode())
    text = about.get_payload()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    readme = (ROOT / "README.md").read_text()
    targets = [link for link in re.findall(r"\]\(([^)]*)\)", readme) if "://" not in link]
    assert len(targets) > 15
    # What is lost is a target that a longer text of the link does not name.
    shown = [re.search(rf"\[([^\]]*)\]\({re.escape(target)}\)", readme)[1] for target in targets]
    assert all(
        f"`{target}`" in text or (f"`{said}`" in text and target.startswith(said.rstrip("/")))
        for target, said in zip(targets, shown, strict=True)
    )
    assert text.count("\n#") == readme.count("\n#")
    assert about["Description-Content-Type"] == "text/markdown"


@BUILT
def test_the_sdist_has_what_the_tests_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    files |= {"tests/golden/loss_curve.json", "conf/train.yaml", "experiments/synthetic_hem.yaml"}
    files |= {"Makefile", "constraints.txt", "README.md", "docs/em.md", "examples/run_onnx.py"}
    assert files <= names


def test_the_packages_that_commands_look_for_are_those_of_the_lab() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {re.split(r"[^\w-]", line)[0].lower() for line in extras["lab"]}
    homes = packages_distributions()
    looked_for = [{home.lower() for home in homes[package]} for package in lab.PACKAGES]
    assert all(home & listed for home in looked_for)
    assert listed <= set.union(*looked_for)


def test_the_list_of_commands_imports_none_of_them(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from hemnet.__main__ import main; main();"
        "print(sorted(name for name in sys.modules if name.startswith(('hemnet', 'torch'))))"
    )
    done = run(sys.executable, "-c", script, cwd=tmp_path)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("['hemnet', 'hemnet.__main__']\n")


def test_an_unknown_command_is_answered_with_those_there_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hemnet", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: hemnet has no command trian: there are init, train, evaluate")
