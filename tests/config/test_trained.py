"""Which keys of a trained run's configuration reach which command, and what is said of the others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.tiny import PLAIN, call
from _helpers.untrained import as_stored, photograph, untrained
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from hemnet.config.build import restore
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.config.trained import ITERATIONS, REACHING, override
from hemnet.data import DatasetSpec
from hemnet.errors import HemnetError
from hemnet.explore.writing import Wish, explore
from hemnet.runs.identity import differences
from hemnet.runs.moved import ROOT
from hemnet.runs.run import Run
from hemnet.runs.run_settings import settings
from hemnet.using.evaluation import evaluate
from hemnet.using.prediction import predict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run, _ = untrained(tmp_path_factory.mktemp("trained") / "run")
    return as_stored(run)


@pytest.fixture(scope="module")
def stored(run: Run) -> DictConfig:
    return run.config


@pytest.mark.parametrize("command", [name for name in REACHING if name != "export"])
@pytest.mark.parametrize("key", ["num_components", "highway_scale", "mask_padding"])
def test_a_shared_key_is_refused_with_the_key_that_works(stored: DictConfig, command: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key} changes .* model\.head\.{key}; give that$"):
        override(stored, [f"model.{key}=0"], command)
    assert override(stored, [f"model.head.{key}=0"], command).model.head[key] == 0


REFUSED = {
    "evaluate": [
        "seed=1", "optim.optimizer.lr=1", "run_dir=x", "name=x", "conclusive=false", "task.compile=true",
        "trainer.max_epochs=3", "data.batch_size=3", "data.seed=3", "data.train_transform.flip=false",
        "model.head.dropout=0.5", "model.head.gradient=detached", "model.head.means=learned",
        "model.backbone.weights=imagenet", "model.auxiliary={}", "callbacks.finite.most=3", "model.head={}",
        "resume=auto", "data.val={}",
    ],
    "predict": ["data.root=x", "data=camvid", "trainer.accelerator=cpu", "trainer.precision=16-mixed"],
    "explore": ["inference.flip=true", "trainer.accelerator=cpu", "data.eval_batch_size=3"],
    "explore IMAGES": ["data.root=x", "data.val.split=train", "data=camvid"],
    "cost": ["inference.flip=true", "data.root=x", "trainer.accelerator=cpu"],
}  # fmt: skip


@pytest.mark.parametrize(("command", "word"), [(c, word) for c, words in REFUSED.items() for word in words])
def test_a_key_that_does_not_reach_the_command_is_refused(
    stored: DictConfig, command: str, word: str
) -> None:
    with pytest.raises(ConfigError, match="changes nothing"):
        override(stored, [word], command)


def test_what_is_refused_names_what_works(stored: DictConfig) -> None:
    with pytest.raises(ConfigError, match=r"data\.train\.split .*; give data\.val\.split$"):
        override(stored, ["data.train.split=test"], "evaluate")
    with pytest.raises(ConfigError, match=r"obeys data\.eval_transform, data\.eval_batch_size$"):
        override(stored, ["data.root=x"], "predict")
    with pytest.raises(ConfigError, match=r"trainer\.precision .*: the network runs in float32"):
        override(stored, ["trainer.precision=16-mixed"], "predict")
    own_root = override(stored, ["data.val.root=/x"], "evaluate")
    with pytest.raises(ConfigError, match=r"give data\.val\.root$"):
        override(own_root, ["data.root=/y"], "evaluate")
    deep = override(stored, ["model.head.iterations_eval=9"], "evaluate")
    with pytest.raises(ConfigError, match=r"evaluated with model\.head\.iterations_eval; give that"):
        override(deep, ["model.head.iterations=2"], "evaluate")
    with pytest.raises(ConfigError, match="an option of the command decides it"):
        override(stored, ["model.head.iterations_eval=2"], "evaluate", ITERATIONS)
    with pytest.raises(ConfigError, match=r"data\.val\.split is given twice, as test and as train"):
        override(stored, ["data.val.split=test", "data.val.split=train"], "evaluate")
    with pytest.raises(ConfigError, match="the keys of a trained run stay"):
        override(stored, ["~data.val.split"], "evaluate")


def test_keys_that_another_data_set_refers_to_reach_it_wherever_they_stand(stored: DictConfig) -> None:
    words = ["data.train.images=photos", "data.root=/mine", "data=folder", "data.train.classes=[a,b]"]
    val = override(stored, words, "evaluate").data.val
    assert (val.images, val.classes) == ("photos", ["a", "b"])
    assert override(stored, words[1:3], "evaluate").data.val.classes == "/mine/classes.yaml"
    with pytest.raises(ConfigError, match=r"data\.batch_size changes nothing"):
        override(stored, [*words, "data.batch_size=3"], "evaluate")


def test_a_key_that_an_older_run_lacks_can_be_given(stored: DictConfig) -> None:
    older = stored.copy()
    del older.model.head["tolerance"], older.data["eval_batch_size"]
    assert override(older, ["model.head.tolerance=0.1"], "predict").model.head.tolerance == 0.1
    assert override(older, ["+data.eval_batch_size=3"], "predict").data.eval_batch_size == 3
    with pytest.raises(ConfigError, match=r"did you mean model\.head\.tolerance"):
        override(older, ["model.head.toleranc=0.1"], "predict")


@pytest.mark.parametrize("change", ["means=learned", "gradient=detached", "momentum=0.1", "dropout=0.9"])
def test_options_of_training_have_no_effect_on_a_trained_network(run: Run, change: str) -> None:
    key, value = change.split("=")
    other = Run(run.path, run.config.copy())
    other.config.model.head[key] = float(value) if value[0].isdigit() else value
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        one, two = (restore(each)[0](image, (32, 48)).logits for each in (run, other))
    assert torch.equal(one, two)


def test_the_commands_refuse_and_write_nothing(run: Run, tmp_path: Path) -> None:
    image = photograph(tmp_path / "a.png")
    before = sorted(run.path.rglob("*"))
    for use in (
        lambda: evaluate(run.path, "last", ["model.highway_scale=0.9"]),
        lambda: evaluate(run.path, "last", ["model.head.iterations_eval=1"], iterations=[2]),
        lambda: predict(run.path, image, "last", None, ["trainer.accelerator=cpu"]),
        lambda: explore(run.path, Wish([image]), assignments=["data.val.split=train"]),
        lambda: explore(run.path, Wish([image], iterations=2), assignments=["model.head.iterations=1"]),
    ):
        with pytest.raises(HemnetError, match="changes nothing in hemnet"):
            use()
    assert sorted(run.path.rglob("*")) == before


def test_contradictions_of_options_and_keys_are_refused(run: Run, tmp_path: Path) -> None:
    for words in (["--flip", "inference.flip=false"], ["--split", "test", "data.val.split=train"]):
        done = call("hemnet.evaluate", str(run.path), *words, cwd=tmp_path)
        assert done.returncode == 2
        assert "is given twice" in done.stderr


def test_a_run_that_goes_on_refuses_another_shared_value(run: Run) -> None:
    words = [f"resume={run.path}", *PLAIN]
    assert load([*words, "model.num_components=4"]).model.head.num_components == 4
    with pytest.raises(ConfigError, match=r"made with model\.head\.highway_scale=0\.5; leave"):
        load([*words, "model.highway_scale=0.9"])


@pytest.fixture
def of_folder(tmp_path: Path) -> Run:
    """A run on a folder of a user's own, whose classes are red and green."""
    write_own(tmp_path / "own", ["red", "green"])
    words = ["data=folder", f"data.root={tmp_path / 'own'}"]
    spec = DatasetSpec("own", ("red", "green"), ((255, 0, 0), (0, 255, 0)))
    run, _ = untrained(tmp_path / "run", *words, replacing="data=camvid", spec=spec)
    OmegaConf.save(
        OmegaConf.create(OmegaConf.to_container(run.config, resolve=True)), run.path / "config.yaml"
    )
    return Run.open(run.path)


def write_own(root: Path, classes: list[str]) -> Path:
    photograph(root / "images" / "val" / "a.png")
    (root / "masks" / "val").mkdir(parents=True)
    Image.fromarray(np.arange(24 * 36, dtype=np.uint8).reshape(24, 36) % 2).save(root / "masks/val/a.png")
    (root / "classes.yaml").write_text("".join(f"- {name}\n" for name in classes))
    return root


def test_the_root_of_the_data_reaches_every_path_made_from_it(of_folder: Run, tmp_path: Path) -> None:
    place = of_folder.path / "evaluation"
    own = evaluate(of_folder.path, "last", [], worst=0)
    moved = write_own(tmp_path / "moved", ["red", "green"])
    shutil.rmtree(tmp_path / "own")
    assert evaluate(of_folder.path, "last", [f"data.root={moved}"], worst=0) == own
    assert [path.name for path in place.iterdir()] == ["last"], "the same images are the same evaluation"
    assert json.loads((place / "last" / "result.json").read_text())["changes"] == {}
    other = write_own(tmp_path / "other", ["green", "red"])
    with pytest.raises(HemnetError, match="choose data with the same classes, in one order"):
        evaluate(of_folder.path, "last", [f"data.root={other}"])
    (moved / "classes.yaml").unlink()
    with pytest.raises(HemnetError, match=r"moved/classes\.yaml: no such file.*data\.val\.classes="):
        evaluate(of_folder.path, "last", [f"data.root={moved}"])
    named = [f"data.root={moved}", "data.val.classes=[red,green]"]
    assert evaluate(of_folder.path, "last", named, worst=0) == own


def test_a_run_goes_on_with_data_that_were_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own.yaml").write_text("defaults:\n  - override /data: folder\n")
    words = ["experiment=own", "data.root=/old"]
    run, _ = untrained(tmp_path / "run", *words, replacing="data=camvid")
    before = as_stored(run).config
    config = load([f"resume={run.path}", "experiment=own", "data.root=/moved"])
    assert config.data.train.classes == config.data.val.classes == "/moved/classes.yaml"
    assert differences(before, config) == []
    one, two = (settings(OmegaConf.to_container(each)) for each in (before, config))
    assert one | {ROOT: ""} == two | {ROOT: ""}


@pytest.mark.parametrize(
    "key",
    [
        "seed", "name", "trainer", "trainer.accelerator", "trainer.devices", "data", "data.val", "model.head",
        "model.head._target_", "model.backbone", "optim", "task", "data.eval_transform._target_",
    ],
)  # fmt: skip
def test_a_stored_configuration_that_lacks_a_part_is_named(stored: DictConfig, key: str) -> None:
    damaged = stored.copy()
    parent, _, name = key.rpartition(".")
    del (OmegaConf.select(damaged, parent) if parent else damaged)[name]
    with pytest.raises(ConfigError, match=rf"config\.yaml lacks {key}.*: restore the file$"):
        override(damaged, [], "evaluate")


@pytest.mark.parametrize("key", ["data.eval_transform", "data.train_transform", "model.head", "trainer"])
@pytest.mark.parametrize("value", [5, None, "text", [1], {}])
def test_a_part_that_is_something_else_is_named(stored: DictConfig, key: str, value: object) -> None:
    damaged = stored.copy()
    OmegaConf.update(damaged, key, value, merge=False)
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        override(damaged, [], "evaluate")
    if key != "trainer" and not isinstance(value, list | dict):
        with pytest.raises(ConfigError, match=rf"{key} is .*must have keys"):
            override(stored, [f"{key}={'null' if value is None else value}"], "evaluate")
