"""Malicious checkpoints: nothing in them is run, and the error says what is wrong."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _helpers.tiny import TINY
from omegaconf import OmegaConf

from hemnet.config.build import build_network, restore
from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.nets.weights import load_pretrained
from hemnet.runs import checkpoints
from hemnet.runs.checkpoints import CHECKPOINT_FORMAT
from hemnet.runs.run import Run

pytestmark = pytest.mark.usefixtures("bounded")

SPEC = {"name": "x", "classes": ["a", "b"], "palette": [[1, 1, 1], [2, 2, 2]]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that was never trained: its configuration, and a folder for its checkpoints."""
    config = load([f"run_dir={tmp_path}", *TINY])
    OmegaConf.save(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    return Run.open(tmp_path)


def content(run: Run) -> dict[str, Any]:
    state = build_network(run.config, 2).state_dict()
    about = {"format": CHECKPOINT_FORMAT, "spec": dict(SPEC)}
    return {"state_dict": {f"network.{k}": v for k, v in state.items()}, "hemnet": about}


def place(run: Run) -> Path:
    return run.path / "checkpoints" / "last.ckpt"


def test_a_good_one_is_restored(run: Run) -> None:
    good = content(run)
    torch.save(good, place(run))
    network, spec = restore(run)
    assert spec.classes == ("a", "b")
    for name, value in network.state_dict().items():
        assert torch.equal(value, good["state_dict"][f"network.{name}"])


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["state_dict", "hemnet", None])
def test_code_is_refused_and_not_run(where: str | None, zipped: bool, run: Run) -> None:
    bad = content(run)
    (bad[where] if where else bad)["bomb"] = Bomb(run.path / "ran")
    torch.save(bad, place(run), _use_new_zipfile_serialization=zipped)
    with pytest.raises(HemnetError, match="refused, since it holds more than tensors and plain data"):
        restore(run)
    assert not (run.path / "ran").exists()


def test_a_plain_pickle_is_refused_and_not_run(run: Run) -> None:
    place(run).write_bytes(pickle.dumps(Bomb(run.path / "ran")))
    with pytest.raises(HemnetError, match=r"last\.ckpt"):
        restore(run)
    assert not (run.path / "ran").exists()


NO_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("hello"),
    "zeros": lambda p: p.write_bytes(bytes(9999)),
    "folder": lambda p: p.mkdir(),
    "pipe": lambda p: os.mkfifo(p),
    "device": lambda p: p.symlink_to("/dev/zero"),
    "link to itself": lambda p: p.symlink_to(p),
    "zip of something else": lambda p: zipfile.ZipFile(p, "w").writestr("a", "b"),
    "tensor": lambda p: torch.save(torch.zeros(3), p),
    "list": lambda p: torch.save([1, 2], p),
}


@pytest.mark.parametrize("case", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused_by_name(case: str, run: Run) -> None:
    NO_CHECKPOINTS[case](place(run))
    with pytest.raises(HemnetError, match=r"last\.ckpt"):
        restore(run)


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], object]:
    def apply(good: dict[str, Any]) -> None:
        name = next(name for name in good["state_dict"] if key in name)
        good["state_dict"][name] = change(good["state_dict"][name])

    return apply


UNFIT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no weights": (lambda c: c.pop("state_dict"), "lacks the weights"),
    "weights are a number": (lambda c: c.update(state_dict=3), "lacks the weights"),
    "weights are a list": (lambda c: c.update(state_dict=[torch.zeros(2)]), "lacks the weights"),
    "no classes": (lambda c: c["hemnet"].pop("spec"), "lacks the weights or their classes"),
    "classes are a number": (lambda c: c["hemnet"].update(spec=3), "lacks the weights or their classes"),
    "colours of no class": (lambda c: c["hemnet"]["spec"].update(classes=["a"]), "1 class but 2 colours"),
    "too many classes": (
        lambda c: c["hemnet"]["spec"].update(classes=[str(i) for i in range(999)]), "needs 1 to 255"
    ),
    "one class more": (
        lambda c: c["hemnet"]["spec"].update(classes=["a", "b", "c"], palette=[[1] * 3, [2] * 3, [3] * 3]),
        "is not of the network",
    ),
    "no tensors": (lambda c: c.update(state_dict={}), "is not of the network"),
    "one tensor less": (lambda c: c["state_dict"].popitem(), "is not of the network"),
    "one tensor more": (
        lambda c: c["state_dict"].update({"network.more": torch.zeros(1)}), "is not of the network"
    ),
    "a number for a tensor": (changed("conv1.weight", lambda _: 3), "is not of the network"),
    "another shape": (changed("conv1.weight", lambda w: w[:1]), "is not of the network"),
    "a giant of one number": (
        changed("conv1.weight", lambda _: torch.zeros(1).expand(10**6, 10**6)), "is not of the network"
    ),
    "NaN": (changed("conv1.weight", lambda w: w * torch.nan), "1 tensor with NaN or infinity"),
    "infinity": (changed("running_var", lambda v: v + torch.inf), "1 tensor with NaN or infinity"),
    "later format": (lambda c: c["hemnet"].update(format=99), "has checkpoint format 99"),
    "format of no kind": (lambda c: c["hemnet"].update(format=[]), "has checkpoint format"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_named(case: str, run: Run) -> None:
    change, said = UNFIT[case]
    bad = content(run)
    change(bad)
    torch.save(bad, place(run))
    with pytest.raises(HemnetError, match=said) as caught:
        restore(run)
    assert str(place(run)) in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("other", ["model.backbone.width=8", "model.head.channels=16", "model/head=fcn"])
def test_a_checkpoint_of_another_network_is_named(other: str, run: Run, tmp_path: Path) -> None:
    torch.save(content(Run(tmp_path, load([f"run_dir={tmp_path}", *TINY, other]))), place(run))
    with pytest.raises(HemnetError, match="is not of the network in"):
        restore(run)


def test_a_storage_that_claims_more_than_there_is_takes_no_memory(run: Run) -> None:
    good = content(run)
    good["state_dict"] = {"network.x": torch.zeros(1000)}
    torch.save(good, run.path / "good")
    with zipfile.ZipFile(run.path / "good") as source, zipfile.ZipFile(place(run), "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                # Every 1000 as a two-byte number becomes 2^31 - 1 as a four-byte number.
                assert b"M\xe8\x03" in data
                data = data.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f")
            target.writestr(name, data)
    with pytest.raises(HemnetError, match=r"last\.ckpt"):
        restore(run)


def test_the_hash_covers_what_was_written(run: Run) -> None:
    checkpoints.write(content(run), place(run))
    other = content(run)
    torch.save(other, place(run))
    with pytest.raises(HemnetError, match="does not have the hash in"):
        restore(run)


def test_a_packed_storage_is_refused_before_it_is_unpacked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(content(run), run.path / "good")
    with (
        zipfile.ZipFile(run.path / "good") as source,
        zipfile.ZipFile(place(run), "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, bytes(9_000_000) if name.endswith("data/0") else source.read(name))
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("read"))
    said = "claims to hold more than its own size"
    with pytest.raises(HemnetError, match=rf"last\.ckpt.*{said}"):
        restore(run)
    with pytest.raises(HemnetError, match=rf"last\.ckpt.*{said}"):
        load_pretrained(torch.nn.Linear(2, 2), str(place(run)))


@pytest.mark.parametrize("part", ["name", "data", "model", "trainer"])
def test_a_configuration_without_a_part_is_named(part: str, run: Run) -> None:
    torch.save(content(run), place(run))
    run.config.pop(part)
    with pytest.raises(HemnetError, match=rf"config\.yaml lacks {part}: restore the file"):
        restore(run)
