"""Users' own data sets: a folder of images, a folder of masks, and classes from a list or a YAML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemnet.data.listing import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    UNLABELLED_SPLIT,
    list_files,
    require_file,
    require_folder,
)
from hemnet.data.matching import images_alone, match_files
from hemnet.data.readers import FileReader
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, voc_colors
from hemnet.wording import counted

_LAYOUT = (
    "images/SPLIT/NAME.jpg (or png, tif, webp, ...) and masks/SPLIT/NAME.png (or NAME_mask.png, or like it), "
    "SPLIT being train, val, ..."
)

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
            raise ValueError(
                f"{counted(len(own.names), 'name')} but {counted(len(labels), 'label')}; give one each"
            )
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
        return yaml.safe_load(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file of classes; write one with a line '- NAME' per label 0, 1, ..., or give "
            "names, data.train.classes='[NAME, NAME, ...]', or of a trained run data.val.classes='[...]'"
        ) from None
    # ValueError: the file is not UTF-8, or has an impossible date.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable YAML file ({error})") from error


class Folder(FileReader):
    """A user's images and masks, matched by their names without suffix.

    A mask has the name of its image, or that with one addition that is the same for all, such as x_mask.png;
    see `hemnet.data.matching` for this, case, and additions to both names. Masks are 8-bit files of a
    format without loss (PNG, TIFF, BMP, ...) whose grey levels or palette indices are the labels.

    Args:
        root: folder of the set.
        split: name of the folders of this split, for example "train".
        classes: names of the labels 0, 1, ..., or the path of a YAML file, see `own_classes`.
        images: folder of the images, absolute or in `root`; "{split}" in it is replaced by the split. If its
            last part has "{name}", that part is the pattern of the file names: "all/{name}_photo.jpg", or
            without an ending, "all/{name}_photo", for any kind of image.
        masks: folder of the masks, likewise; masks without an image are ignored. None reads images alone, as
            does the split "test" if no image of it has a mask: every pixel is ignored then.

    Raises:
        DataError: a missing or empty folder, an image without a mask, wrong classes.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: list[str] | str | Path,
        images: str = "images/{split}",
        masks: str | None = "masks/{split}",
    ) -> None:
        root = require_folder(Path(root), _LAYOUT)
        spec, labels = own_classes(classes, root)
        image_files = _list(root, images, split, IMAGE_SUFFIXES)
        if masks is None:
            files = images_alone(image_files, image_files)
        else:
            mask_files = _list(root, masks, split, MASK_SUFFIXES, optional=split == UNLABELLED_SPLIT)
            files = match_files(image_files, image_files, mask_files, split)
        super().__init__(spec, files, labels)


def _list(
    root: Path, place: str, split: str, suffixes: tuple[str, ...], optional: bool = False
) -> dict[str, str]:
    """Return name -> path of the files of a folder, or of those whose names follow a pattern with {name}."""
    folder, beginning = root / place.replace("{split}", split), ""
    if "{name}" in folder.name:
        beginning, _, end = folder.name.partition("{name}")
        suffixes = (end,) if Path(f"x{end}").suffix else tuple(f"{end}{suffix}" for suffix in suffixes)
        folder = folder.parent
    return list_files(folder, suffixes, _LAYOUT, beginning, optional)
