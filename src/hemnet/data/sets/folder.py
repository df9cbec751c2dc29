"""Users' own data sets: a folder of images, a folder of masks, and classes from a list or a YAML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemnet.data.listing import IMAGE_SUFFIXES, list_files, match_files, require_file, require_folder
from hemnet.data.readers import FileReader
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, voc_colors

_LAYOUT = "images/SPLIT/*.jpg|png and masks/SPLIT/*.png of the same names, SPLIT being train, val, ..."

_Byte = Annotated[int, Field(ge=0, le=255)]


class _ClassFile(BaseModel):
    """The keys of a YAML file of classes; the file may also be a plain list of names."""

    model_config = ConfigDict(extra="forbid", strict=True)

    names: list[str]
    labels: list[_Byte] | None = None
    ignore: _Byte | list[_Byte] | None = None
    colors: list[list[_Byte]] | None = None


def own_classes(classes: Sequence[str] | str | Path, root: Path) -> tuple[DatasetSpec, dict[int, int]]:
    """Return the classes of a user's data set, and the class of each label in its masks.

    Args:
        classes: names of the labels 0, 1, ... (255 is ignored), or the path of a YAML file that holds such a
            list or these keys: `names`; `labels`, the label of each class in the masks (default 0, 1, ...);
            `ignore`, a label or a list of labels (default 255, unless it is a class); `colors`, [red, green,
            blue] of each class (default the colour map of PASCAL VOC, black only for background).
        root: folder of the data set, which is named after it.

    Returns:
        the classes, and a mapping from label to class index or IGNORE_INDEX.

    Raises:
        DataError: the file is missing or not YAML, has an unknown key, or wrong or repeated names, labels or
            colours.
    """
    name = root.resolve().name or "folder"
    where = str(classes) if isinstance(classes, str | Path) else f"the classes of {name}"
    content = _load(Path(classes)) if isinstance(classes, str | Path) else list(classes)
    try:
        own = _ClassFile.model_validate({"names": content} if isinstance(content, list) else content)
        labels = own.labels if own.labels is not None else list(range(len(own.names)))
        ignored = [own.ignore] if isinstance(own.ignore, int) else own.ignore
        if ignored is None:
            ignored = [255] if 255 not in labels else []
        if len(labels) != len(own.names):
            raise ValueError(f"{len(own.names)} names but {len(labels)} labels; give one each")
        if len({*labels, *ignored}) != len(labels) + len(set(ignored)):
            raise ValueError("labels repeat, or the label of a class is ignored; give each label one meaning")
        colors = own.colors or voc_colors(0 if own.names[:1] == ["background"] else 1, len(own.names))
        spec = DatasetSpec(name, tuple(own.names), tuple(tuple(color) for color in colors))  # type: ignore[misc]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{where}: {key}: {first['msg'].lower()}; give a list of names, or the keys "
            f"{', '.join(_ClassFile.model_fields)}"
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return spec, {**dict.fromkeys(ignored, IGNORE_INDEX), **{label: k for k, label in enumerate(labels)}}


def _load(path: Path) -> Any:
    try:
        if path.exists():
            require_file(path)
        return yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file of classes; write one with a line '- NAME' per label 0, 1, ..., or set "
            "data.train.classes='[NAME, NAME, ...]'"
        ) from None
    # ValueError: the file is not UTF-8, or has an impossible date.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable YAML file ({error})") from error


class Folder(FileReader):
    """A user's images and masks, matched by their names without suffix.

    Masks are 8-bit PNG files whose grey levels or palette indices are the labels.

    Args:
        root: folder of the set.
        split: name of the folders of this split, for example "train".
        classes: names of the labels 0, 1, ..., or the path of a YAML file, see `own_classes`.
        images: folder of the images, absolute or in `root`; "{split}" in it is replaced by the split.
        masks: folder of the masks, likewise; masks without an image are ignored.

    Raises:
        DataError: a missing or empty folder, an image without a mask, wrong classes.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: list[str] | str | Path,
        images: str = "images/{split}",
        masks: str = "masks/{split}",
    ) -> None:
        root = require_folder(Path(root), _LAYOUT)
        spec, labels = own_classes(classes, root)
        image_files = list_files(root / images.replace("{split}", split), IMAGE_SUFFIXES, _LAYOUT)
        mask_files = list_files(root / masks.replace("{split}", split), (".png",), _LAYOUT)
        super().__init__(spec, match_files(image_files, image_files, mask_files), labels)
