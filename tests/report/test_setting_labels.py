"""What tells settings apart: the keys that differ, without those that only come with another class."""

from hypothesis import given
from hypothesis import strategies as st

from hemnet.report.setting_labels import labels


def test_only_what_differs_is_named_and_known_keys_in_plain_words() -> None:
    own = {"optim.optimizer.lr": "0.1", "optim.power": "0.9", "trainer.max_epochs": "4"}
    other = own | {"optim.optimizer.lr": "0.2", "trainer.max_epochs": "8"}
    assert labels([own, other]) == ["learning rate=0.1, epochs=4", "learning rate=0.2, epochs=8"]
    assert labels([own, own | {"optim.power": "2"}]) == ["power=0.9", "power=2"]
    assert labels([own]) == [""]
    assert labels([]) == []


def test_the_keys_of_another_class_come_with_it() -> None:
    deep = {"model.backbone._target_": "hemnet.nets.ResNet", "model.backbone.depth": "50", "seeded": "yes"}
    deeper = deep | {"model.backbone.depth": "101"}
    small = {"model.backbone._target_": "hemnet.nets.EfficientNetLite", "model.backbone.variant": "0",
             "seeded": "yes"}  # fmt: skip
    assert labels([deep, small]) == ["backbone=ResNet", "backbone=EfficientNetLite"]
    assert labels([deep, deeper, small]) == [
        "backbone=ResNet, depth=50", "backbone=ResNet, depth=101", "backbone=EfficientNetLite",
    ]  # fmt: skip
    assert labels([deep, {"seeded": "yes"}]) == ["backbone=ResNet", "backbone=null"]


def test_a_null_is_called_what_it_means() -> None:
    one, other = {"model.head.variance": "1", "model.head.tolerance": "0.1"}, {"model.head.iterations": "3"}
    assert labels([one, one | other, other]) == [
        "iterations=null, tolerance=0.1, variance=1", "iterations=3, tolerance=0.1, variance=1",
        "iterations=3, tolerance=null, variance=√C",
    ]  # fmt: skip


def test_ends_of_keys_that_several_have_are_lengthened() -> None:
    one = {"data.train.split": "a", "data.val.split": "b"}
    assert labels([one, {"data.train.split": "c", "data.val.split": "d"}]) == [
        "train.split=a, val.split=b", "train.split=c, val.split=d",
    ]  # fmt: skip


KEYS = st.sampled_from(["a._target_", "a.x", "a.y", "a.b._target_", "a.b.z", "c"])


@given(
    st.lists(
        st.dictionaries(KEYS, st.sampled_from("12")), max_size=5, unique_by=lambda d: tuple(sorted(d.items()))
    )
)
def test_different_settings_have_different_labels(settings: list[dict[str, str]]) -> None:
    assert len(set(labels(settings))) == len(settings)


def test_a_label_is_as_long_as_it_must_be_to_tell_settings_apart() -> None:
    keys = [f"k{i}" for i in range(9)]
    usual, other = dict.fromkeys(keys, "0"), dict.fromkeys(keys, "1")
    far = [dict.fromkeys(keys, value) | {"k8": "0"} for value in "34"]
    found = labels([usual, usual, usual, other, other | {"k8": "2"}, *far])
    assert found[:3] == [""] * 3
    assert [text.rpartition(", ")[2] for text in found[3:]] == ["k8=1", "k8=2", "and 2 more", "and 2 more"]


def test_where_many_keys_differ_settings_are_named_by_what_is_unusual() -> None:
    usual = dict.fromkeys("abcd", "0")
    assert labels([usual, usual | {"a": "1"}, usual | {"b": "1", "c": "2"}, usual | {"d": "1"}]) == [
        "", "a=1", "b=1, c=2", "d=1",
    ]  # fmt: skip
