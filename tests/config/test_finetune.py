"""Fine-tuning: what is taken from a trained run, what is not, and that the new run is a whole run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from _helpers.camvid_files import MakeCamVid
from _helpers.tiny import PLAIN, tiny
from omegaconf import DictConfig

from hemnet.config import build
from hemnet.config.build import build_network, restore
from hemnet.config.compose import load
from hemnet.config.finetune import start_from
from hemnet.data import CAMVID, DatasetSpec
from hemnet.data.spec import voc_colors
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.runs import checkpoints
from hemnet.runs.run import Run
from hemnet.runs.run_settings import columns
from hemnet.runs.training_run import TrainingRun
from hemnet.train import train

OTHERS = DatasetSpec("others", ("a", "b", "c"), voc_colors(1, 3))
# As many as CamVid's, in another order: their rows of the classifier mean other things.
REVERSED = replace(CAMVID, classes=CAMVID.classes[::-1])


def trained(tmp_path: Path, *overrides: str) -> tuple[Path, Segmenter]:
    """A run of CamVid's classes, as training leaves it as far as fine-tuning reads it, and its network."""
    config = load(tiny(tmp_path, tmp_path / "trained", *overrides))
    run = TrainingRun.create(tmp_path / "trained", config)
    torch.manual_seed(1)
    network = build_network(config, CAMVID.num_classes)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    about = {"format": checkpoints.CHECKPOINT_FORMAT, "spec": CAMVID.to_dict()}
    checkpoints.write({"state_dict": state, "hemnet": about}, run.path / "checkpoints" / "last.ckpt")
    return run.path, network


def fresh(tmp_path: Path, spec: DatasetSpec, *overrides: str) -> Segmenter:
    torch.manual_seed(2)
    return build_network(load(tiny(tmp_path, tmp_path / "new", *overrides)), spec.num_classes)


@pytest.mark.parametrize("spec", [CAMVID, OTHERS, REVERSED], ids=["same", "others", "reversed"])
def test_all_is_taken_but_what_depends_on_other_classes(spec: DatasetSpec, tmp_path: Path) -> None:
    path, source = trained(tmp_path, "model/auxiliary=fcn", "model.auxiliary.channels=8")
    network = fresh(tmp_path, spec, "model/auxiliary=fcn", "model.auxiliary.channels=8")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = start_from(network, spec, str(path))
    own = {
        f"{head}.classifier.{leaf}" for head in ("head", "auxiliary") for leaf in ("weight", "bias")
    } if spec != CAMVID else set()  # fmt: skip
    assert set(found["not_taken"]) == own
    assert found["taken"] == len(before) - len(own)
    assert found["classes"] == ("same" if spec == CAMVID else "other")
    assert found["sha256"] == checkpoints.fingerprint(path / "checkpoints" / "last.ckpt")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name in own else source.state_dict()[name]), name


def test_another_head_takes_the_backbone_and_another_backbone_is_refused(tmp_path: Path) -> None:
    path, source = trained(tmp_path)
    network = fresh(tmp_path, OTHERS, "model/head=pspnet")
    found = start_from(network, OTHERS, str(path / "checkpoints" / "last.ckpt"))
    assert found["not_taken"]
    assert not [name for name in found["not_taken"] if name.startswith("backbone.")]
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, source.backbone.state_dict()[name])
    for how in ("model.backbone.width=6", "model/backbone=resnet34"):
        with pytest.raises(HemnetError, match=r"its backbone is not that of this run, \d+ tensors differ"):
            start_from(fresh(tmp_path, CAMVID, how, "model.head.channels=8"), CAMVID, str(path))
    with pytest.raises(HemnetError, match="no run at"):
        start_from(network, OTHERS, str(tmp_path / "none"))


def test_trackers_average_runs_by_the_weights_that_they_start_from(tmp_path: Path) -> None:
    here, there = (load(tiny(tmp_path, tmp_path / "run", f"finetune=/{place}/pre")) for place in "ab")

    def setting(config: DictConfig, weights: str | None) -> str:
        return columns(config, weights=weights)["setting"]

    assert setting(here, "a" * 64) == setting(there, "a" * 64) != setting(here, "b" * 64)
    assert setting(here, None) != setting(there, None)


def test_a_fine_tuned_run_is_recorded_and_resumed_without_the_other(
    make_camvid: MakeCamVid,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    monkeypatch.setattr(build, "columns", lambda *given: told.append(given[-1]) or columns(*given))
    caplog.set_level("INFO")
    path, _ = trained(tmp_path)
    how = [*PLAIN, f"data.root={make_camvid()}", f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1"]
    # A rate of 0 shows that training starts from the other run's weights. The weights named are not needed.
    how += [f"finetune={path}", "optim.optimizer.lr=0", "model.backbone.weights=/nowhere.pth"]
    train(load(how))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    assert (result["finetune"]["classes"], result["finetune"]["not_taken"]) == ("same", [])
    assert "fine-tuning from" in caplog.text
    run = Run.open(tmp_path / "run")
    assert run.config.finetune == str(path)
    own, others = restore(run)[0].state_dict(), restore(Run.open(path))[0].state_dict()
    assert torch.equal(own["backbone.layer4.1.conv2.weight"], others["backbone.layer4.1.conv2.weight"])

    shutil.rmtree(path)
    (tmp_path / "run" / "result.json").unlink()  # as if it had been killed at its end
    train(load([*how, "resume=auto"]))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["finetune"] == result["finetune"]
    assert set(told) == {result["finetune"]["sha256"]}
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(HemnetError, match="another configuration, differing in finetune"):
        train(load([*(o for o in how if not o.startswith("finetune=")), "resume=auto"]))
