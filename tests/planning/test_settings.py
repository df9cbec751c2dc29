"""Sizes, crops and steps follow from the photographs and from what a step costs."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hemnet.planning import settings as module
from hemnet.planning.settings import FEWEST_STEPS, VALIDATIONS, settings_for, steps_in

SIDE = st.integers(20, 6000)


@given(st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=30), st.integers(1, 60))
@example([(20, 20)] * 3 + [(20, 321)] * 2, 1)  # two become a single pixel high
def test_no_crop_is_larger_than_most_photographs_and_none_is_enlarged(sizes, train) -> None:
    made = settings_for(sizes, train)
    longer = sorted(max(size) for size in sizes)
    assert 1 <= made.longest <= longer[len(longer) // 2]
    # Resizing leaves a photograph at least one pixel high, however narrow it is.
    shorter = [max(1.0, min(size) * made.longest / max(size)) for size in sizes]
    assert made.crop <= max(shorter) + 1e-9
    assert sum(made.crop > side + 1e-9 for side in shorter) <= len(sizes) // 10 + 1
    assert made.batch == min(8, train)
    assert made.shrink is None or (max(longer) > 2048 and made.shrink >= made.longest)


@pytest.mark.parametrize(
    ("size", "longest", "crop"),
    [((384, 512), 512, 256), ((3024, 4032), 512, 256), ((4032, 3024), 512, 256), ((300, 400), 400, 256),
     ((96, 96), 96, 96), ((500, 2000), 880, 208)],
)  # fmt: skip
def test_settings_of_usual_sizes(size, longest, crop) -> None:
    made = settings_for([size] * 50, 40)
    assert (made.longest, made.crop, made.batch) == (longest, crop, 8)


def test_without_weights_training_starts_from_random_ones_and_takes_longer(monkeypatch) -> None:
    with_weights = settings_for([(300, 400)], 40)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    without = settings_for([(300, 400)], 40)
    assert not without.pretrained
    assert without.steps == 4 * module.STEPS
    if with_weights.pretrained:
        assert with_weights.steps == module.STEPS


@given(st.floats(10, 1e5), st.floats(0.001, 100), st.floats(0, 1e4), st.sampled_from([500, 2000]))
def test_steps_fit_into_the_time_with_validations_a_fifth_of_it(
    seconds, per_step, per_validation, most
) -> None:
    steps, every = steps_in(seconds, per_step, per_validation, most)
    assert FEWEST_STEPS <= steps <= most
    validations = -(-steps // every)
    assert 1 <= validations <= VALIDATIONS + 1
    if steps > FEWEST_STEPS:
        assert steps * per_step + per_validation <= seconds
        assert steps // every * per_validation <= 0.2 * seconds + per_validation
