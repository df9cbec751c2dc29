"""The packages besides hemnet that may be named: declared, named by the user, or sealed in a run."""

import json
import os
import stat
from pathlib import Path

import pytest

from hemnet.runs import own_packages
from hemnet.runs.own_packages import recall, record

CONFIG = {
    "model": {"head": {"_target_": "mine.nets.Head"}},
    "callbacks": [{"_target_": "mineral.Call"}],
    "seed": 0,
}


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an empty configuration folder, who names no package."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HEMNET_PACKAGES", raising=False)
    return tmp_path / "config"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment.json of a run that the user made with a package named."""
    monkeypatch.setenv("HEMNET_PACKAGES", "other, mine")
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({"python": "3.11"} | record(CONFIG)))
    monkeypatch.delenv("HEMNET_PACKAGES")
    return path


def test_a_run_remembers_the_packages_that_it_uses_for_the_user_who_made_it(run: Path, user: Path) -> None:
    assert json.loads(run.read_text())["own_packages"]["names"] == ["mine"]
    assert own_packages.own_packages() == ()
    recall(run)
    assert own_packages.own_packages() == ("mine",)
    assert os.environ["HEMNET_PACKAGES"] == "mine"  # the processes of a run have it too
    recall(run)
    assert own_packages.own_packages() == ("mine",)
    assert stat.S_IMODE((user / "hemnet" / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "forged",
    [
        {"names": ["os"]},
        {"names": ["mine", "os"]},
        {"names": []},
        {"names": "mine"},
        {"names": [["mine"]]},
        {"seal": "0" * 64},
        {"seal": None},
        {"seal": ["mine"]},
    ],
)
def test_a_run_of_somebody_else_allows_nothing(run: Path, forged: dict) -> None:
    said = json.loads(run.read_text())
    said["own_packages"] |= forged
    run.write_text(json.dumps(said))
    recall(run)
    assert own_packages.own_packages() == ()


@pytest.mark.parametrize(
    "said", [{}, {"own_packages": None}, {"own_packages": ["mine"]}, {"own_packages": {}}]
)
def test_what_is_no_record_allows_nothing(tmp_path: Path, said: dict) -> None:
    (tmp_path / "environment.json").write_text(json.dumps(said))
    recall(tmp_path / "environment.json")
    recall(tmp_path / "nowhere.json")
    assert own_packages.own_packages() == ()


def test_another_user_s_seal_is_worth_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    recall(run)
    record(CONFIG)  # nothing of one's own in it, so no key is made
    assert not (tmp_path / "another").exists()
    (tmp_path / "another" / "hemnet").mkdir(parents=True)
    (tmp_path / "another" / "hemnet" / "key").write_bytes(b"x" * 32)
    recall(run)
    assert own_packages.own_packages() == ()


def test_without_a_place_for_the_key_a_run_is_made_and_remembers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HEMNET_PACKAGES", "mine")
    assert record(CONFIG) == {"own_packages": {"names": ["mine"]}}


def test_an_installed_package_declares_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "mine-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[hemnet.packages]\nmine = mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    own_packages._declared.cache_clear()
    assert own_packages.own_packages() == ("mine",)
    monkeypatch.undo()
    own_packages._declared.cache_clear()
    assert own_packages.own_packages() == ()
