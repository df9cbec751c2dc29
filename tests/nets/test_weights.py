"""Pretrained weights: what is loaded, what is refused, and that a refusal leaves everything as it was."""

import functools
import hashlib
import http.server
import os
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hemnet.errors import HemnetError
from hemnet.nets import EfficientNetLite, ResNet
from hemnet.nets.weights import load_pretrained

State = dict[str, Tensor]


def network(seed: int = 0, depth: int = 18) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(depth, width=2)


def published(seed: int = 1) -> State:
    """A checkpoint of the same network, other weights, and a classifier."""
    return network(seed).state_dict() | {"fc.weight": torch.ones(3, 16), "fc.bias": torch.zeros(3)}


def assert_holds(net: nn.Module, state: State) -> None:
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def assert_refused(source: str, message: str) -> None:
    """The source raises, and the network that was to be filled is as before."""
    net, before = network(), network().state_dict()
    with pytest.raises(HemnetError, match=message):
        load_pretrained(net, source)
    assert_holds(net, before)


def test_imagenet_is_no_path_of_a_network_without_packages():
    assert_refused("imagenet", r"weights=imagenet works with model/backbone=lite0, lite1 and lite2")


# --- local files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["plain", "parallel", "nested", "nested_parallel"])
def test_local_file_is_loaded_without_its_classifier(tmp_path, layout):
    state = stored = published()
    if "parallel" in layout:
        stored = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": stored, "epoch": 3} if "nested" in layout else stored, tmp_path / "x.pth")
    net = network()
    load_pretrained(net, str(tmp_path / "x.pth"))
    assert_holds(net, state)


def other_parts() -> State:
    return {
        "head.mlp.0.weight": torch.ones(2),
        "projector.weight": torch.ones(3, 3),
        "decode.conv.bias": torch.ones(1),
    }


WRAPPED = {
    "mmseg": lambda own: {"meta": {"epoch": 3}, "state_dict": under("backbone.", own) | other_parts()},
    "moco": lambda own: {
        "epoch": 200, "arch": "resnet18",
        "state_dict": under("module.encoder_q.", own | {"fc.0.weight": torch.ones(2, 2)})
        | under("module.encoder_k.", published(5)) | {"module.queue": torch.ones(4, 4)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "dino": lambda own: {
        "student": under("module.backbone.", published(5)),
        "teacher": under("backbone.", own) | other_parts(),
        "epoch": 7,
    },
    "simsiam": lambda own: {"model": under("encoder.", own) | other_parts(), "scaler": {"scale": 2.0}},
    "model": lambda own: {"model": own, "optimizer": {}},
    "nested twice": lambda own: {"checkpoint": {"state_dict": under("module.model.backbone.", own)}},
    "run": lambda own: {
        "state_dict": under("network.backbone.", own) | under("network.head.", other_parts()), "epoch": 1,
        "hemnet": {"format": 2}, "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}}],
    },
    "twice the same": lambda own: {"model": own, "model_ema": {name: own[name].clone() for name in own}},
}  # fmt: skip


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("way", WRAPPED)
def test_the_backbone_is_found_whatever_wraps_it(tmp_path, way, caplog):
    caplog.set_level("INFO")
    torch.save(WRAPPED[way](published()), tmp_path / "x.pth")
    net = network()
    load_pretrained(net, str(tmp_path / "x.pth"))
    assert_holds(net, published())
    assert f"the backbone's weights are those in {tmp_path / 'x.pth'} under '" in caplog.text


def test_of_several_backbones_one_must_be_chosen(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": published(), "model_ema": published(5)}, path)
    assert_refused(
        str(path), rf"holds 2 backbones that fit, under 'model\.', 'model_ema\.': .*='{path}#model'"
    )
    net = network()
    load_pretrained(net, f"{path}#model_ema")
    assert_holds(net, published(5))
    assert_refused(f"{path}#teacher", r"under 'teacher\.'.* 100 tensors missing")


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "model.backbone."])
def test_a_misfit_names_the_prefix_that_matches_best(tmp_path, prefix):
    torch.save({"state_dict": under(prefix, network(depth=34).state_dict())}, tmp_path / "x.pth")
    assert_refused(
        str(tmp_path / "x.pth"),
        rf"under 'state_dict\.{prefix}', which matches best of .* 0 tensors missing, 96 unknown, 0 of",
    )


def test_a_checkpoint_without_such_names_says_which_it_has(tmp_path):
    torch.save({"state_dict": {"patch_embed.proj.weight": torch.ones(3)}}, tmp_path / "x.pth")
    assert_refused(
        str(tmp_path / "x.pth"), "none of its names ends as conv1.weight does; they begin with state_dict"
    )


def test_another_backbone_is_found_too(tmp_path):
    torch.manual_seed(1)
    trained = EfficientNetLite(0).state_dict()
    torch.save({"state_dict": under("network.backbone.", trained)}, tmp_path / "x.pth")
    assert_holds(EfficientNetLite(0, weights=str(tmp_path / "x.pth")), trained)
    with pytest.raises(HemnetError, match="does not fit this backbone: under"):
        EfficientNetLite(1, weights=str(tmp_path / "x.pth"))


def test_constructor_loads_weights(tmp_path):
    torch.save(published(), tmp_path / "x.pth")
    assert_holds(ResNet(18, width=2, weights=str(tmp_path / "x.pth")), published())


def test_counters_of_old_checkpoints_may_be_missing(tmp_path):
    state = {k: v for k, v in published().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    net = network()
    net.bn1.num_batches_tracked += 7
    load_pretrained(net, str(tmp_path / "x.pth"))
    assert net.bn1.num_batches_tracked == 7
    assert torch.equal(net.conv1.weight, state["conv1.weight"])


def test_missing_file_is_named(tmp_path):
    assert_refused(
        str(tmp_path / "absent.pth"), r"no pretrained weights at .*absent\.pth: set model\.backbone"
    )


def test_wrong_depth_names_the_remedy(tmp_path):
    torch.save(network(depth=34).state_dict(), tmp_path / "x.pth")
    assert_refused(str(tmp_path / "x.pth"), "does not fit .*set model.backbone.depth, stem and width")


def test_wrong_width_names_the_first_tensor(tmp_path):
    torch.save(ResNet(18, width=3).state_dict(), tmp_path / "x.pth")
    assert_refused(
        str(tmp_path / "x.pth"), r"0 tensors missing, 0 unknown, 100 of another shape \(first: bn1"
    )


def test_one_missing_tensor_is_enough(tmp_path):
    state = published()
    del state["layer3.1.conv2.weight"]
    torch.save(state, tmp_path / "x.pth")
    assert_refused(str(tmp_path / "x.pth"), r"1 tensors missing, 0 unknown.*layer3\.1\.conv2\.weight")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save(published() | {"bomb": Bomb(tmp_path / "ran")}, tmp_path / "x.pth")
    assert_refused(str(tmp_path / "x.pth"), "cannot be read as a checkpoint of tensors")
    assert not (tmp_path / "ran").exists()
    # The file is a threat indeed: read without care, it does run.
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [torch.zeros(2), [torch.zeros(2)], {1: torch.zeros(2)}, {"state_dict": 3}, {"conv1.weight": 3}]
)
def test_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    assert_refused(str(tmp_path / "x.pth"), "holds no mapping from names to tensors")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_file_is_refused_wherever_it_was_cut(tmp_path, zipped):
    path = tmp_path / "x.pth"
    torch.save(published(), path, _use_new_zipfile_serialization=zipped)
    whole, draw = path.read_bytes(), random.Random(0)
    for length in [0, 1, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(40))]:
        path.write_bytes(whole[:length])
        assert_refused(str(path), "cannot be read as a checkpoint of tensors")


# --- URLs ---------------------------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL it is served at, from this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder, and no proxy between the test and its server."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "hub" / "checkpoints"


def store(folder: Path, name: str = "weights.pth") -> str:
    """Write a checkpoint and return its SHA-256."""
    torch.save(published(), folder / name)
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("place", ["fragment", "upper_case_fragment", "file_name"])
def test_url_with_the_right_hash_is_loaded_and_kept(served, place):
    folder, address = served
    digest = store(folder)
    if place == "file_name":
        shutil.move(folder / "weights.pth", folder / f"weights-{digest[:8]}.pth")
        url = f"{address}/weights-{digest[:8]}.pth"
    else:
        url = f"{address}/weights.pth#sha256={digest.upper() if 'upper' in place else digest}"
    net = network()
    load_pretrained(net, url)
    assert_holds(net, published())

    shutil.rmtree(folder)
    again = network()
    load_pretrained(again, url)
    assert_holds(again, published())


def test_wrong_hash_is_refused_and_nothing_is_kept(served, cache):
    folder, address = served
    digest = store(folder)
    wrong = f"{address}/weights.pth#sha256={'0' * 64}"
    assert_refused(wrong, r"could not fetch .*invalid hash value.*set model\.backbone\.weights")
    assert list(cache.iterdir()) == []
    # A file that was kept for one hash does not satisfy another.
    load_pretrained(network(), f"{address}/weights.pth#sha256={digest}")
    assert_refused(wrong, "invalid hash value")


def test_a_kept_file_that_was_altered_is_refused(served, cache):
    folder, address = served
    url = f"{address}/weights.pth#sha256={store(folder)}"
    load_pretrained(network(), url)
    (kept,) = cache.glob("*.pth")
    torch.save(published(seed=2), kept)
    assert_refused(url, f"{kept.name}: invalid hash value")


@pytest.mark.parametrize("fragment", ["", "#sha256=abcd1234", "#md5=" + "0" * 64, "#sha256=" + "0" * 63])
@pytest.mark.parametrize("name", ["weights.pth", "weights-abc.pth"])
def test_url_without_a_hash_is_refused_before_any_download(served, cache, name, fragment):
    folder, address = served
    store(folder, name)
    assert_refused(f"{address}/{name}{fragment}", r"states no SHA-256: append #sha256=<64 hex digits>")
    assert not cache.exists()


def test_misspelt_fragment_does_not_fall_back_to_the_name(served):
    folder, address = served
    digest = store(folder)
    shutil.move(folder / "weights.pth", folder / f"weights-{digest[:8]}.pth")
    assert_refused(f"{address}/weights-{digest[:8]}.pth#sha265={digest}", "states no SHA-256")


def test_unreachable_server_is_refused(cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert_refused(f"http://127.0.0.1:{port}/weights-0123abcd.pth", "could not fetch pretrained weights")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["absent-0123abcd.pth", "with space-0123abcd.pth"])
def test_url_that_cannot_be_had_is_refused(served, cache, name):
    assert_refused(f"{served[1]}/{name}", "could not fetch pretrained weights")
    assert list(cache.iterdir()) == []


def test_downloaded_file_that_is_no_checkpoint_is_refused(served):
    folder, address = served
    (folder / "page.pth").write_text("<html>Please log in</html>")
    digest = hashlib.sha256((folder / "page.pth").read_bytes()).hexdigest()
    assert_refused(f"{address}/page.pth#sha256={digest}", "cannot be read as a checkpoint of tensors")
