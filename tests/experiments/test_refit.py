"""experiments/refit.py: what it trains, what it holds, and the scores it writes."""

import json
import shutil
from pathlib import Path

import pytest
import refit
import torch
from _helpers.fake_runs import write_evaluation
from _helpers.study_pages import cells, page, write
from _helpers.untrained import untrained
from study_finished import Finished

from hemnet.config.build import build_data, build_task, restore
from hemnet.errors import HemnetError
from hemnet.report.collect import read
from hemnet.runs import checkpoints
from hemnet.runs.run import Run
from hemnet.storage.files import read_json, write_json
from hemnet.using.evaluation import evaluate

FINISHED = json.dumps({"status": "finished", "metrics": {}})
AFTER = ("head.context.conv2.", "head.context.bn.", "head.refine.", "head.classifier.")


def saved(run: Run, state: dict[str, torch.Tensor]) -> Run:
    """The same run, finished, with these tensors in its checkpoint."""
    last = run.path / "checkpoints" / "last.ckpt"
    content = checkpoints.read(last)
    content["state_dict"] = {f"network.{name}": value for name, value in state.items()}
    checkpoints.write(content, last)
    (run.path / "result.json").write_text(FINISHED)
    return Run.open(run.path)


@pytest.fixture
def run(tmp_path: Path, make_camvid) -> Run:
    """T = 2; images of 40 rows are padded, and means far apart, so that T tells in the scores."""
    options = ("model.head.iterations=2", f"data.root={make_camvid(size=(40, 64))}", "optim.optimizer.lr=0.5")
    run, state = untrained(tmp_path / "run", *options)
    state["head.context.em.means"] *= 5
    state["head.context.bn.weight"] += 3
    return saved(run, state)


def scores(run: Run, epochs: int = 1) -> dict[str, float]:
    name = "refit.json" if epochs == refit.REFIT_EPOCHS else f"refit-epochs-{epochs}.json"
    assert read_json(run.path / "measures" / name)["epochs"] == epochs
    return read_json(run.path / "measures" / name)["val/miou"]


def test_before_any_step_the_scores_are_those_of_evaluations_at_these_T(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(refit, "train", lambda *given: None)
    assert refit.refit(run, [0, 2, 5], 1)
    for T, score in scores(run).items():
        assert evaluate(run.path, "last", [], iterations=[int(T)])["val/miou"] == pytest.approx(score)
    assert len(set(scores(run).values())) == 3


def test_each_T_has_layers_of_its_own_and_the_rest_is_held(run: Run) -> None:
    network, spec = restore(run)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    backbone = refit.Held(network.backbone)
    calls = []
    backbone.backbone.register_forward_hook(lambda *call: calls.append(call))
    networks = [refit.for_iterations(backbone, network.head, T) for T in (1, 2)]
    data = build_data(run.config)
    refit.train([build_task(run.config, each, spec) for each in networks], data, 2, 3)
    assert len(calls) == 3 * 2  # four photographs in batches of two, once for both T
    states = [
        {k.replace("backbone.backbone", "backbone"): v for k, v in each.state_dict().items()}
        for each in networks
    ]
    assert all(state.keys() == before.keys() for state in states)
    changed = [{k for k in before if not torch.equal(state[k], before[k])} for state in states]
    assert changed[0] == changed[1] == {name for name in before if name.startswith(AFTER)}
    assert not torch.equal(*(state["head.classifier.weight"] for state in states))
    assert {p for each in networks for p in each.parameters() if p.grad is not None} == {
        p for each in networks for n, p in each.named_parameters() if n.startswith(AFTER)
    }


def test_what_one_T_gets_does_not_depend_on_the_others(run: Run) -> None:
    assert refit.refit(run, [1, 2, 4], 2)
    together = scores(run, 2)
    for T in (2, 1):
        (run.path / "measures" / "refit-epochs-2.json").unlink()
        assert refit.refit(run, [T], 2)
        assert scores(run, 2) == {str(T): together[str(T)]}


def test_the_layers_after_learn(run: Run, monkeypatch) -> None:
    """One batch, of one class, again and again."""
    network, spec = restore(run)
    own = refit.for_iterations(refit.Held(network.backbone), network.head, 2)
    config = refit.slower(run.config)
    assert config.optim.optimizer.lr == pytest.approx(0.05)
    assert run.config.optim.optimizer.lr == 0.5
    task = build_task(config, own, spec)
    losses = []
    of_task = task.training_loss.evaluate
    task.training_loss.evaluate = lambda *given: (
        found := of_task(*given),
        losses.append(found[0].part.item()),
    )[0]
    data = build_data(run.config)
    batch = next(iter(data.train_dataloader()))
    batch["mask"][:] = 3
    monkeypatch.setattr(refit, "batches", lambda *given: [batch] * 20)
    refit.train([task], data, 2, 10)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_a_run_is_refitted_once_for_each_checkpoint_T_and_number_of_epochs(run: Run) -> None:
    assert refit.refit(run, [1, 2], 1)
    assert not refit.refit(run, [2], 1)
    assert refit.refit(run, [2, 3], 1)
    assert refit.refit(run, [2, 3], 2)
    state = restore(run)[0].state_dict()
    state["head.classifier.bias"] += 1
    assert refit.refit(saved(run, state), [2, 3], 2)


def test_other_T_are_added_and_other_epochs_are_apart(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(refit, "train", lambda *given: None)
    last = run.path / "checkpoints" / "last.ckpt"
    checkpoints.write(checkpoints.read(last), last)
    for iterations, epochs in (([1, 2], 5), ([3], 5), ([2], 1)):
        assert refit.refit(run, iterations, epochs)
    assert not refit.refit(run, [3, 1], 5)
    assert [*scores(run, 5)] == ["1", "2", "3"]
    assert [*scores(run, 1)] == ["2"]
    content = checkpoints.read(last)
    content["state_dict"]["network.head.classifier.bias"] += 1
    checkpoints.write(content, last)
    assert refit.refit(run, [3], 5)
    assert [*scores(run, 5)] == ["3"]  # the others were of another checkpoint


def test_the_command_line(run: Run, tmp_path: Path, capsys) -> None:
    plain, _ = untrained(
        tmp_path / "plain", "model/head=fcn", f"data.root={run.config.data.root}", replacing="num_components"
    )
    (plain.path / "result.json").write_text(FINISHED)
    shutil.copytree(run.path, broken := tmp_path / "broken")
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"")
    told = [str(run.path), str(plain.path), "--iterations", "2", "1", "2", "--epochs", "1"]
    refit.main(told)
    assert capsys.readouterr().out.strip() == f"{run.path}: refitted"
    assert [*scores(run)] == ["2", "1"]
    with pytest.raises(SystemExit, match="1"):
        refit.main([str(broken), *told])
    said = capsys.readouterr()
    assert said.out.strip() == f"{run.path}: was refitted"
    assert str(broken) in said.err
    for wrong in (["--epochs", "0"], ["--iterations", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            refit.main([str(run.path), *wrong])
        assert "1 or more, and --iterations 0 or more" in capsys.readouterr().err
    with pytest.raises(HemnetError, match="its head is FCNHead, not EMHead"):
        refit.refit(Run.open(plain.path), [1], 1)


def test_the_study_shows_both_scores_and_their_differences(tmp_path: Path) -> None:
    gains = (0.01, 0.03, 0.02)
    for seed, gain in enumerate(gains):
        run = write(tmp_path, seed, 0.5)
        for T, score in ((3, 0.5), (6, 0.4)):
            write_evaluation(run, T, score)
        found = {"3": 0.6, "6": 0.6 + gain} | ({"1": 0.7} if seed else {})
        write_json(run / "measures" / "refit.json", {"epochs": 5, "val/miou": found})
    write_json(
        write(tmp_path, 3, 0.5) / "measures" / "refit.json", {"epochs": 1, "val/miou": {"3": 0.1, "6": 0.2}}
    )
    text = page(tmp_path).partition("\n# Exploratory")[2]
    name = "h = 0.5, T = 3, Eq. 8"
    assert cells(text, f"{name}: T_eval = 6 against 3")[:3] == ["3", "3", "+0.0200"]
    assert f"{name}: T_eval = 1 against 3" not in text  # of which there are two pairs
    assert cells(text, f"{name} | 0 | as trained")[2:] == ["", "0.5000", "0.4000"]
    assert cells(text, f"{name} | 0 | trained for T")[2:] == ["", "0.6000", "0.6100"]
    assert cells(text, f"{name} | 1 | trained for T")[2:] == ["0.7000", "0.6000", "0.6300"]
    assert f"{name} | 3 |" not in text


def test_scores_of_an_earlier_checkpoint_do_not_count(tmp_path: Path) -> None:
    run = write(tmp_path, 0, 0.5)
    checkpoints.write({"step": 1}, last := run / "checkpoints" / "last.ckpt")
    for digest, expected in (("0" * 64, {}), (checkpoints.fingerprint(last), {3: 0.6})):
        write_json(
            run / "measures" / "refit.json",
            {"checkpoint_sha256": digest, "epochs": 5, "val/miou": {"3": 0.6}},
        )
        assert Finished(Run.open(run), read(run)).refitted == expected
