"""What tells settings apart, in words: the keys in which they differ, and their values."""

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence

from hemnet.runs.canonical import TARGET, told
from hemnet.runs.run_settings import DEFAULTS, FINETUNED, ITERATIONS_EVAL

Settings = Mapping[str, str]

FEW = 3
"""If more keys differ, a key is not named where it has its most common value."""
MOST = 6
"""A label names so many keys, and how many more there are; more, if that does not tell it from another."""
WORDS = {
    "optim.optimizer.lr": "learning rate", "optim.head_lr_multiple": "head's learning rate, times",
    "optim.optimizer.weight_decay": "weight decay", "optim.warmup_fraction": "warm-up",
    "data.root": "data", "data.seed": "seed of the data", ITERATIONS_EVAL: "T of evaluation",
    FINETUNED: "fine-tuned from",
    "trainer.max_epochs": "epochs", "trainer.max_steps": "steps", "trainer.precision": "precision",
    "trainer.gradient_clip_val": "clipped at norm", "data.batch_size": "batch size",
    "data.train.length": "training images", "data.val.length": "validation images",
    "data.train_transform.crop_size": "crop",
    "data.train_transform.base_size": "training size", "data.eval_transform.size": "evaluation size",
    "data.train._target_": "training set", "data.val._target_": "validation set",
    "model.head.num_components": "components", "model.backbone._target_": "backbone",
}  # fmt: skip
"""Plain names of keys; any other key is called by the shortest end of its dotted name that no other has."""
NULL = {**DEFAULTS, "model.head.variance": "√C", "data.seed": "the run's", ITERATIONS_EVAL: "T"}
"""What a key means that is null or missing, where it is not called null."""


def labels(rivals: Sequence[Settings], hidden: Container[str] = ()) -> list[str]:
    """Return for each of the settings ``name=value`` of the keys by which it differs from others.

    Under a ``_target_`` that differs, such as another backbone, the class alone is named: its further keys
    come with it. They are named where settings with that same class differ in them. If more than `FEW` keys
    differ, those settings that have the most common value of a key do not name it, and a label may be "".

    Args:
        rivals: settings as flat dotted keys.
        hidden: keys that are not named.
    """
    named = _differing(rivals, hidden)
    if len({key for keys in named for key in keys}) > FEW:
        named = [
            [key for key in keys if rival.get(key) != _usual(key, rivals)]
            for rival, keys in zip(rivals, named, strict=True)
        ]
    shown = sorted({key for keys in named for key in keys})
    sizes = [MOST] * len(rivals)
    while True:
        texts = [_label(*each, shown) for each in zip(rivals, named, sizes, strict=True)]
        meant: dict[str, set[frozenset[tuple[str, str]]]] = defaultdict(set)
        for text, rival, keys in zip(texts, rivals, named, strict=True):
            meant[text].add(frozenset((key, rival.get(key, "")) for key in keys))
        short = [i for i, text in enumerate(texts) if len(meant[text]) > 1 and sizes[i] < len(named[i])]
        if not short:
            return texts
        for i in short:
            sizes[i] += 1


def _differing(rivals: Sequence[Settings], hidden: Container[str]) -> list[list[str]]:
    """Return the keys that tell each of the settings from others: classes, then those of most values."""
    items = [frozenset(rival.items()) for rival in rivals]
    shared = frozenset[tuple[str, str]].intersection(*items) if items else frozenset()
    varying = sorted({key for each in items for key, _ in each - shared if key not in hidden})
    named: list[list[str]] = [[] for _ in rivals]
    for key in varying:
        classes = [f"{place}.{TARGET}" for place in _above(key)]
        kin: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
        for i, rival in enumerate(rivals):
            kin[tuple(rival.get(name) for name in classes)].append(i)
        for mine in kin.values():
            if len({rivals[i].get(key) for i in mine}) > 1:
                for i in mine:
                    named[i].append(key)
    values = {key: len({rival.get(key) for rival in rivals}) for key in varying}
    return [sorted(keys, key=lambda key: (not key.endswith(TARGET), -values[key], key)) for keys in named]


def _usual(key: str, rivals: Sequence[Settings]) -> str | None:
    """Return the most common value of a key, None if most settings do not have it."""
    counts = Counter(rival.get(key) for rival in rivals)
    return max(counts, key=lambda value: (counts[value], value is None, str(value)))


def _above(key: str) -> list[str]:
    """Return the nodes that a key is inside of; the class of a node is no key inside of it."""
    parts = key.removesuffix(f".{TARGET}").split(".")
    return [".".join(parts[:size]) for size in range(1, len(parts))]


def _label(own: Settings, keys: Sequence[str], most: int, shown: Sequence[str]) -> str:
    texts = [f"{_name(key, shown)}={_value(own.get(key, NULL.get(key, 'null')), key)}" for key in keys[:most]]
    return ", ".join(texts + ([f"and {len(keys) - most} more"] if len(keys) > most else []))


def _value(value: str, key: str) -> str:
    return told(value) if key.endswith(f".{TARGET}") else value


def _name(key: str, keys: Sequence[str]) -> str:
    """Return the word for a key, else the shortest end of the dotted key that no other of the keys has."""
    if key in WORDS:
        return WORDS[key]
    key = key.removesuffix(f".{TARGET}")
    parts = key.split(".")
    for size in range(1, len(parts)):
        end = ".".join(parts[-size:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) <= 1:
            return end
    return key
