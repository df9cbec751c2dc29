"""Pipelines of albumentations in the recipe: mask rules, repeatability, and what is refused."""

import pickle
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemnet.config.build import build_train_transform
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.data import IGNORE_INDEX, DataError, Sample, TrainTransform
from hemnet.data.transforms import denormalize

COLORS = np.array([(250, 240, 230), (10, 20, 30), (120, 130, 140), (60, 70, 80)], np.uint8)


def sample(seed: int = 0, size: tuple[int, int] = (90, 120)) -> Sample:
    """Blocks of four classes, each of a grey of its own."""
    coarse = np.random.default_rng(seed).integers(0, 4, (size[0] // 15, size[1] // 15))
    mask_HW = np.kron(coarse, np.ones((15, 15))).astype(np.uint8)
    return Sample(COLORS[mask_HW], mask_HW, "blocks")


def mislabelled(image_HWC: np.ndarray, mask_HW: np.ndarray) -> float:
    """Share of the labelled pixels whose colour is nearest to that of another class."""
    distance = np.abs(image_HWC[..., None, :].astype(int) - COLORS).sum(-1)
    labelled = mask_HW != IGNORE_INDEX
    return float((distance.argmin(-1) != mask_HW)[labelled].mean())


GEOMETRIC = {
    "rotate": lambda: A.Rotate(30, p=1), "affine": lambda: A.Affine(scale=(0.7, 1.4), shear=10, p=1),
    "elastic": lambda: A.ElasticTransform(alpha=20, sigma=6, p=1), "grid": lambda: A.GridDistortion(p=1),
    "perspective": lambda: A.Perspective(p=1), "d4": lambda: A.D4(p=1),
    "resized": lambda: A.RandomResizedCrop((40, 50), p=1), "pad": lambda: A.PadIfNeeded(140, 150, p=1),
    "one of": lambda: A.OneOf([A.Rotate(20, p=1), A.Sequential([A.Transpose(p=1), A.SafeRotate(9)])], p=1),
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIC)
def test_labels_move_with_their_pixels_and_what_is_filled_is_ignored(name: str) -> None:
    transform = TrainTransform(64, scale=(0.9, 1.3), pipeline=["scale", GEOMETRIC[name](), "crop"])
    shares = []
    for seed in range(6):
        item = transform(sample(seed), np.random.default_rng(seed))
        mask_HW = item["mask"].numpy().astype(np.uint8)
        assert mask_HW.shape == (64, 64)
        assert set(np.unique(mask_HW)) <= {0, 1, 2, 3, IGNORE_INDEX}
        assert (~item["inside"] == (item["mask"] == IGNORE_INDEX)).all()
        shares.append(mislabelled(denormalize(item["image"]), mask_HW))
    # Pixels at borders between classes are mixtures of two colours, which may be near to a third.
    assert np.mean(shares) < 0.12


def test_without_the_rules_the_same_transform_would_invent_labels() -> None:
    done = A.Rotate((45, 45), border_mode=0, p=1)(
        image=sample().image_HWC, mask=np.full((90, 120), 3, np.uint8)
    )
    assert 0 in done["mask"]


STEPS = [
    "scale", A.GaussNoise(p=0.7), A.Rotate(20, p=0.5), "crop", "flip",
    A.SomeOf([A.GaussianBlur(p=1), A.CoarseDropout(p=1), A.RandomGamma(p=1)], n=2, p=0.8), "color_jitter",
]  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_sample_depends_on_its_generator_alone(seed: int) -> None:
    transform = TrainTransform(48, pipeline=STEPS)
    one, other = (transform(sample(), np.random.default_rng(number)) for number in (seed, seed + 1))
    copied = pickle.loads(pickle.dumps(transform))(sample(), np.random.default_rng(seed))
    again = transform(sample(), np.random.default_rng(seed))
    for same in (copied, again):
        assert torch.equal(one["image"], same["image"])
        assert torch.equal(one["mask"], same["mask"])
    assert not torch.equal(one["image"], other["image"])


def test_the_default_is_the_list_of_the_four_steps_in_their_order() -> None:
    default = TrainTransform(48)
    listed = TrainTransform(48, pipeline=["scale", "crop", "flip", "color_jitter"])
    extended = TrainTransform(48, pipeline=["scale", "crop", "flip", "color_jitter", A.InvertImg(p=1)])
    for seed in range(4):
        one, other, inverted = (
            transform(sample(), np.random.default_rng(seed)) for transform in (default, listed, extended)
        )
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])
        assert np.array_equal(denormalize(one["image"]), 255 - denormalize(inverted["image"]))


class Drifting(A.DualTransform):
    """Moves the image by four pixels, and not the mask."""

    _targets = A.HorizontalFlip._targets

    def apply(self, img, **params):
        return np.roll(img, 4, 1)

    def apply_to_mask(self, mask, **params):
        return mask


class OwnNumbers(A.ImageOnlyTransform):
    """Draws from numpy's global generator."""

    def apply(self, img, **params):
        return img + np.random.randint(0, 20, img.shape, np.uint8)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda: A.Morphological(p=0.1), "Morphological, which moves labels and pixels apart"),
        (lambda: A.Morphological(operation="erosion", p=1), "Morphological, which moves"),
        (lambda: A.OneOf([A.Blur(p=1), A.Morphological(p=1)], p=0.5), "Morphological"),
        (lambda: A.Normalize(p=1), "Normalize, which gives images of another type"),
        (lambda: A.ToFloat(p=1), "ToFloat"),
        (lambda: A.Rotate(9, mask_interpolation=1), "Rotate with mask_interpolation=1, which would mix"),
        (lambda: A.Affine(fill_mask=3), "Affine with fill_mask=3"),
        (lambda: A.PixelDropout(mask_drop_value=0), "PixelDropout with mask_drop_value=0"),
        (lambda: A.FDA([], p=1), "FDA"),
        (lambda: A.CoarseDropout3D(p=1), "CoarseDropout3D, which is not for photographs"),
        (lambda: Drifting(p=0.1), "Drifting, which moves"),
        (lambda: OwnNumbers(p=0.1), "OwnNumbers, which draws random numbers of its own"),
        (lambda: "blur", "'blur': give scale, crop, flip, color_jitter, or a transform"),
        (lambda: {"blur": 1}, "or a transform such as"),
    ],
)  # fmt: skip
def test_what_would_break_masks_or_images_is_refused_by_name(step, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainTransform(32, pipeline=["scale", step(), "crop"])


def test_a_pipeline_must_give_crops_of_the_size_asked_for() -> None:
    with pytest.raises(DataError, match=r"not crop_size \(32, 32\): put crop into it"):
        TrainTransform(32, pipeline=["scale", "flip"])
    with pytest.raises(DataError, match="put crop into it"):
        TrainTransform(32, pipeline=["crop", A.CenterCrop(16, 16)])
    item = TrainTransform(32, pipeline=[A.RandomResizedCrop((32, 32))])(sample(), np.random.default_rng(0))
    assert item["mask"].shape == (32, 32)


def test_a_recipe_lists_transforms_and_its_mistakes_are_named(tmp_path: Path) -> None:
    def composed(*steps: str) -> list[str]:
        return [f"run_dir={tmp_path}", "logger=csv", f"data.train_transform.pipeline=[{','.join(steps)}]"]

    blur = "{_target_: albumentations.GaussianBlur, p: 1.0, sigma_limit: [2.0,3.0]}"
    nested = (
        "{_target_: albumentations.OneOf, p: 1.0, transforms: [{_target_: albumentations.Rotate, limit: 9}]}"
    )
    config = load(composed("scale", nested, "crop", blur))
    size = config.data.train.size
    item = build_train_transform(config)(sample(size=(150, 150)), np.random.default_rng(0))
    assert item["image"].shape == (3, size, size)
    for steps, said in (
        (["{_target_: albumentations.GaussianBlur, propability: 1}"], r"pipeline\[0\]\.propability"),
        (["{_target_: albumentations.GausianBlur}"], r"pipeline\[0\]\._target_"),
        (["{_target_: os.system, command: ls}"], "not allowed"),
        (["{_target_: albumentations.core.serialization.Serializable}"], "not allowed"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(composed(*steps, "crop"))
    with pytest.raises(ConfigError, match="Morphological, which moves labels"):
        build_train_transform(load(composed("{_target_: albumentations.Morphological}", "crop")))
