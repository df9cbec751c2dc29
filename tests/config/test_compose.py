"""Composition: every shipped recipe and part builds, and a wrong key, value or choice is named."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import hemnet
from hemnet.config.build import build_network, build_task, build_trainer, local_processes
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.config.paths import CONF, EXPERIMENTS, recipe
from hemnet.data import CAMVID
from hemnet.em import Detached, HighwayEM, Unrolled
from hemnet.runs.identity import differences
from hemnet.runs.training_run import TrainingRun

RECIPES = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
HEADS = sorted(path.stem for path in (CONF / "model" / "head").glob("*.yaml"))


def configured(tmp_path: Path, *overrides: str) -> object:
    return load([f"run_dir={tmp_path}", "logger=csv", *overrides])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_and_builds(recipe: str, tmp_path: Path) -> None:
    config = configured(tmp_path, f"experiment={recipe}")
    assert config.name == recipe
    # A step in bfloat16 takes many times longer on processors that do not compute in it.
    assert config.trainer.precision == {"cpu": "32-true", "gpu": "bf16-mixed"}[config.trainer.accelerator]
    # A GPU recipe's trainer needs a GPU; the rest of it must build anywhere.
    config.trainer.accelerator = "cpu"
    network = build_network(config, CAMVID.num_classes, pretrained=False)
    task = build_task(config, network, CAMVID)
    build_trainer(config)
    image = torch.zeros(1, 3, 32, 32)
    assert task.eval()(image).shape == (1, CAMVID.num_classes, 32, 32)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_opens_with_what_it_claims(recipe: str) -> None:
    text = (EXPERIMENTS / f"{recipe}.yaml").read_text()
    for heading in ("# Question:", "# Command:", "# Budget:", "# Expected:"):
        assert heading in text, f"{recipe}.yaml lacks {heading!r} in its header"
    assert f"EXP={recipe}" in text or recipe == "synthetic_hem"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("recipe", ["synthetic_hem", "camvid_hem"])
def test_any_head_fits_a_recipe(recipe: str, head: str, tmp_path: Path) -> None:
    config = configured(tmp_path, f"experiment={recipe}", f"model/head={head}")
    build_network(config, 3, pretrained=False)


def test_every_option_of_every_group_composes(tmp_path: Path) -> None:
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group != ".":
            configured(tmp_path, f"{group}={path.stem}")


def test_resolvers_have_a_prefix_and_stored_configurations_none_of_them(tmp_path: Path) -> None:
    """A process has one set of resolvers, and a stored name would have to be read by later versions."""
    sources = "".join(path.read_text() for path in Path(hemnet.__file__).parent.rglob("*.py"))
    names = set(re.findall(r"register_new_resolver\(\s*[\"']([^\"']+)", sources)) - {"oc.env"}
    assert len(names) > 5
    assert all(name.startswith("hemnet.") for name in names), names
    with TrainingRun.create(tmp_path, load([f"run_dir={tmp_path}", "experiment=synthetic_hem"])):
        pass
    assert "${" not in (tmp_path / "config.yaml").read_text()


def test_heads_differ_in_what_they_say(tmp_path: Path) -> None:
    def em(head: str) -> HighwayEM:
        config = configured(tmp_path, "experiment=synthetic_hem", f"model/head={head}")
        return next(m for m in build_network(config, 3).modules() if isinstance(m, HighwayEM))

    hem, plain, emanet = em("hem"), em("em"), em("emanet")
    assert 0 < hem.highway_scale < 1
    assert plain.highway_scale == 0
    assert (hem.gradient, plain.gradient, emanet.gradient) == (Unrolled(), Unrolled(), Detached())
    assert (emanet.options.assignment, emanet.options.normalize) == ("dot", "l2")
    assert (hem.options, hem.iterations) == (plain.options, plain.iterations)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.head.iteratons=3", "model.head.iterations"),
        ("trainer.max_epoch=3", "trainer.max_epochs"),
        ("+model.head.highway_scal=0.1", "model.head.highway_scale"),
        ("modle.head.iterations=3", "model"),
        ("+data.train_transform.flop=true", "data.train_transform.flip"),
        ("+optim.optimizer.momentun=0.9", "optim.optimizer.momentum"),
        ("data=synthetik", "synthetic"),
        ("model/head=heem", "hem"),
        ("experiment=synthetic_hm", "synthetic_hem"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(override: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {named}"):
        configured(tmp_path, override)


@pytest.mark.parametrize(
    "override",
    ["model.head.iterations=three", "model.head.iterations=2.5", "model.head.gradient=untangled",
     "trainer.max_epochs=[1]", "data.train_transform.flip=perhaps", "model.backbone.depth=19"],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_named_with_its_key(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        configured(tmp_path, override)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and return its folder of recipes."""
    monkeypatch.chdir(tmp_path)
    (folder := tmp_path / "experiments").mkdir()
    return folder


def test_a_misspelt_key_in_a_recipe_is_caught(own: Path, tmp_path: Path) -> None:
    # Hydra lets a recipe add any key, so this one is up to `check`.
    (own / "typo.yaml").write_text(yaml.safe_dump({"model": {"head": {"iteration": 3}}}))
    with pytest.raises(ConfigError, match=r"model\.head\.iteration: did you mean model\.head\.iterations"):
        configured(tmp_path, "experiment=typo")


def test_a_recipe_of_the_working_folder_goes_before_a_shipped_one(own: Path, tmp_path: Path) -> None:
    (own / "synthetic_hem.yaml").write_text("seed: 77")
    assert configured(tmp_path, "experiment=synthetic_hem").seed == 77
    assert configured(tmp_path, "experiment=camvid_hem").name == "camvid_hem"
    assert recipe("searches", "hem") == EXPERIMENTS / "searches" / "hem.yaml"
    (own / "searches").mkdir()
    (own / "searches" / "hem.yaml").touch()
    assert recipe("searches", "hem") == own / "searches" / "hem.yaml"


@pytest.mark.parametrize("content", ["- a list", "seed: [1", "\x00"])
def test_a_recipe_that_is_none_is_named_and_stops_no_other(
    content: str, own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own / "wrong.yaml").write_text(content)
    assert configured(tmp_path, "experiment=camvid_hem").name == "camvid_hem"
    assert "experiments/wrong.yaml is no experiment, and is left out" in caplog.text
    with pytest.raises(ConfigError, match="unknown option experiment=wrong"):
        configured(tmp_path, "experiment=wrong")


def test_a_constructor_s_refusal_names_the_node(tmp_path: Path) -> None:
    config = configured(tmp_path, "model.head.variance=-1")
    with pytest.raises(ConfigError, match=r"model\.head: variance is -1"):
        build_network(config, 3)


@pytest.mark.parametrize("build", [build_trainer, local_processes])
def test_statistics_of_all_processes_are_refused_on_the_cpu(build: Callable, tmp_path: Path) -> None:
    config = configured(tmp_path, "trainer.sync_batchnorm=true", "trainer.devices=2", "trainer.strategy=ddp")
    with pytest.raises(ConfigError, match=r"trainer\.sync_batchnorm is true .* trainer\.accelerator=gpu"):
        build(config)


def test_one_process_has_nothing_to_synchronize(tmp_path: Path) -> None:
    build_trainer(configured(tmp_path, "trainer.sync_batchnorm=true"))


@pytest.mark.parametrize("devices", [1, 2])
def test_statistics_of_each_process_are_told_of(
    devices: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path, f"trainer.devices={devices}", "data.batch_size=3")
    with caplog.at_level("INFO", "hemnet.config.build"):
        build_trainer(config)
    said = [record.getMessage() for record in caplog.records if record.name == "hemnet.config.build"]
    assert len(said) == devices - 1
    assert all("the 3 images of its own process; trainer.sync_batchnorm=true" in message for message in said)


def test_an_object_handed_to_a_constructor_stays_the_same_object(tmp_path: Path) -> None:
    config = configured(tmp_path, "experiment=synthetic_hem")
    network = build_network(config, 3)
    assert build_task(config, network, CAMVID).network is network


def test_the_root_of_a_data_set_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEMNET_DATA", "/sets")
    assert configured(tmp_path, "data=camvid").data.root == "/sets/camvid"
    monkeypatch.delenv("HEMNET_DATA")
    assert configured(tmp_path, "data=camvid").data.root == str(Path.cwd() / "data" / "camvid")


def test_the_keys_that_help_shows_first_can_be_set(tmp_path: Path) -> None:
    help_text = yaml.safe_load((CONF / "train.yaml").read_text())["hydra"]["help"]["template"]
    shown = help_text.partition("Keys that are changed first:")[2].partition("\n\n")[0]
    words = [word.rstrip(";,") for word in shown.split() if "=" in word and not word.startswith("resume=")]
    assert len(words) >= 10
    config = configured(tmp_path, "data=camvid", *[word.replace("FOLDER", str(tmp_path)) for word in words])
    assert (config.model.head.iterations, config.trainer.devices, config.seed) == (8, 2, 1)


def test_which_runs_say_that_their_scores_tell_nothing_and_whose_steps_are_the_same(tmp_path: Path) -> None:
    plain = configured(tmp_path, "experiment=synthetic_hem")
    said = configured(tmp_path, "experiment=synthetic_hem", "conclusive=false")
    assert configured(tmp_path, "sweep=smoke").conclusive is False
    assert plain.conclusive is True
    assert differences(plain, said) == [], "so that a run may be resumed with either"


def test_a_sweep_that_evaluates_is_told_from_one_that_trains(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hemnet evaluate --sweep table2_eval"):
        configured(tmp_path, "sweep=table2_eval")
    with pytest.raises(ConfigError, match="unknown option sweep=table2_evl"):
        configured(tmp_path, "sweep=table2_evl")


@pytest.mark.parametrize("text", ["no", "yes", "off", "'false'"])
@pytest.mark.parametrize("key", ["model.head.correct_momentum", "trainer.benchmark"])
def test_a_text_is_no_boolean(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is '{text.strip(chr(39))}', a text: write true or false"):
        load(["experiment=synthetic_hem", f"{key}={text}"])
