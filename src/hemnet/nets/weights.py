"""Pretrained weights: from a local file, or from a URL whose file is checked against its hash."""

import re
from pathlib import Path
from urllib.parse import urldefrag, urlparse

import torch
from torch import Tensor, nn

from hemnet.download import DownloadError, download, require_digest
from hemnet.errors import HemnetError
from hemnet.files import require_unpacked

CLASSIFIER_KEYS = ("fc.",)
REMEDY = "set model.backbone.weights to the path of a downloaded checkpoint, or to null for random weights"


def load_pretrained(network: nn.Module, source: str) -> None:
    """Load a checkpoint into ``network``, leaving out the ImageNet classifier.

    Args:
        network: the module to fill; every one of its tensors must be in the checkpoint.
        source: a path, or an http(s)/file URL. A URL must carry the SHA-256 of its file, as the fragment
            ``#sha256=<hex>`` or in the file name as ``name-<first 8 or more hex digits>.pth``.

    Raises:
        HemnetError: the file is missing, cannot be downloaded, fails its hash, is no checkpoint of
            tensors, or does not fit the network. ``network`` is then unchanged.
    """
    path = _download(source) if urlparse(source).scheme in ("http", "https", "file") else Path(source)
    if not path.is_file():
        raise HemnetError(f"no pretrained weights at {path}: {REMEDY}")
    state = {k: v for k, v in _read_state(path).items() if not k.startswith(CLASSIFIER_KEYS)}
    _check_fit(network, state, path)
    network.load_state_dict(state)


def _download(url: str) -> Path:
    location, fragment = urldefrag(url)
    name = Path(urlparse(location).path).name
    # A fragment that is no hash is refused, not passed over for the weaker hash in the name.
    digest = (
        re.fullmatch(r"sha256=([0-9a-f]{64})", fragment.lower())
        if fragment
        else re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    )
    if digest is None:
        raise HemnetError(
            f"the weights URL {url} states no SHA-256: append #sha256=<64 hex digits> to it, "
            "or use a file named like resnet50-0676ba61.pth"
        )
    # The digest is part of the cached name, so a changed fragment never finds an older file.
    target = Path(torch.hub.get_dir()) / "checkpoints" / f"{digest.group(1)[:16]}-{name}"
    try:
        download(location, target, f"sha256:{digest.group(1)}")
        # Also of a file that was there: who can write to the cache may have put another in its place.
        require_digest(target, f"sha256:{digest.group(1)}")
    except DownloadError as error:
        raise HemnetError(f"could not fetch pretrained weights from {url}: {error}; {REMEDY}") from error
    return target


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            require_unpacked(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader fail in any way: KeyError, struct.error...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HemnetError(f"{path} cannot be read as a checkpoint of tensors ({reason}); {REMEDY}") from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise HemnetError(f"{path} holds no mapping from names to tensors; {REMEDY}")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _check_fit(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    # Checkpoints written before PyTorch 0.4.1 lack this counter, and nothing depends on its value.
    for name in own:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, own[name])
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or unexpected or misshaped:
        example = (missing or unexpected or misshaped)[0]
        raise HemnetError(
            f"{path} does not fit this backbone: {len(missing)} tensors missing, {len(unexpected)} unknown, "
            f"{len(misshaped)} of another shape (first: {example}); "
            "set model.backbone.depth, stem and width to those of the checkpoint"
        )
