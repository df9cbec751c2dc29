"""What an output of a trained network depends on: it names the output, and is written inside it.

Evaluations, predictions, exports and submissions of one run differ by checkpoint, inference and changes of
the configuration. `Origin` has these. A file that is no output of the same origin is not replaced.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from hemnet.runs.canonical import digits
from hemnet.runs.identity import below, job_name, leaves
from hemnet.runs.moved import without_root
from hemnet.runs.redaction import is_secret, redact
from hemnet.runs.renamed import with_present_names
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.destinations import require_own

READER, OF_A_FOLDER = "data.val", ".root"
# Configuration keys that change what a trained network computes, which images it is given, or in which size.
DETERMINING = ("model", READER, "data.eval_transform", "trainer.precision")


@dataclass(frozen=True)
class Origin:
    """What an output depends on: a run's checkpoint, and what differs from the run's configuration.

    Attributes:
        run: the run directory.
        experiment: the recipe's name.
        seed: the run's seed.
        checkpoint: the checkpoint's name.
        digest: the hash of the bytes that the network is read from, SHA-256 in hex.
        settings: the inference options that differ from plain inference, see `Inference.settings`.
        changes: the values that differ from the run's configuration, by key, of the keys in `DETERMINING`.
            The root of a data set is left out, also where it begins a path: its files may have been moved.
    """

    run: Path
    experiment: str
    seed: int
    checkpoint: Checkpoint
    digest: str
    settings: Sequence[str]
    changes: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run, which: Checkpoint, used: DictConfig, settings: Sequence[str] = ()) -> Self:
        """Return the origin of an output.

        Args:
            run: the run, with the configuration that it was trained with.
            which: the checkpoint.
            used: the configuration that the output is made with.
            settings: the inference options that differ from plain inference.

        Raises:
            HemnetError: the run has no such checkpoint, or it is damaged.
        """
        about = (str(run.config.name), int(run.config.seed), which, run.load(which).digest)
        return cls(run.path, *about, list(settings), changes(run.config, used))

    @property
    def name(self) -> str:
        """The name for files and folders in the run: ``last``, or ``best-scales-0.5-1-flip-split-train``."""
        return output_name(self.checkpoint, self.settings, self.changes)

    def record(self) -> dict[str, Any]:
        """Return the origin as plain containers, without paths, to be written inside the output."""
        about = {"experiment": self.experiment, "seed": self.seed, "checkpoint": self.checkpoint}
        about |= {"checkpoint_sha256": self.digest, "settings": self.settings, "changes": self.changes}
        return json.loads(json.dumps(about))

    def require_own(
        self,
        place: Path,
        read: Callable[[Path], Mapping[str, Any] | None],
        *,
        option: str = "--output",
        **further: Any,
    ) -> None:
        """Refuse to replace what is not this origin's output, see `hemnet.storage.destinations.require_own`.

        In the run's own directory, an output of an older version, whose record has fewer entries, is renewed,
        and so is one of a checkpoint that has changed since, because training went on.

        Args:
            place: the file, which may be missing.
            read: takes the file and returns the record in it; None if it has none.
            option: names another place.
            further: entries of the record besides those of `record`.

        Raises:
            HemnetError: an entry differs, or there is no record.
        """
        wanted, needed = self.record() | further, None
        if place.resolve().is_relative_to(self.run.resolve()):
            del wanted["checkpoint_sha256"]
            needed = ("checkpoint",)
        require_own(place, read, wanted, maker="this network", option=option, needed=needed)


def elsewhere(stored: DictConfig, used: DictConfig) -> bool:
    """Return whether images may be others than a run's although `Origin` says the same: a root differs.

    Args:
        stored: the run's configuration.
        used: the configuration that an output is made with.
    """
    plain = (OmegaConf.to_container(config, resolve=True) for config in (stored, used))
    before, after = (_leaves(config, "data") for config in plain)
    return any(before.get(key) != after.get(key) for key in before | after if key.endswith(OF_A_FOLDER))


def output_name(
    which: Checkpoint, settings: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> str:
    """Return the name of an output of a run, see `Origin.name`.

    For another data set the name has the reader's class, the split and a hash of its other keys.
    """
    changes = dict(changes or {})
    if reader := changes.pop(f"{READER}._target_", None):
        others = {key: changes.pop(key) for key in list(changes) if key.startswith(f"{READER}.")}
        split = others.pop(f"{READER}.split", None)
        digest = digits(json.dumps(others, sort_keys=True))
        changes |= {"data": f"{str(reader).rpartition('.')[2]}-{digest}"} | (
            {"split": split} if split else {}
        )
    changed = [f"{key}={value}" for key, value in changes.items()]
    return "-".join([which, *settings, *([job_name(changed)] if changed else [])])


def changes(stored: DictConfig, used: DictConfig) -> dict[str, Any]:
    """Return the values of a configuration that differ from the stored one, see `Origin.changes`."""
    found: dict[str, Any] = {}
    plain = [
        without_root(with_present_names(OmegaConf.to_container(config, resolve=True)))
        for config in (stored, used)
    ]
    for top in DETERMINING:
        before, after = (_leaves(config, top) for config in plain)
        for key in after | before:
            value = after.get(key)
            # As JSON, in which 1 is not 1.0.
            changed = json.dumps(before.get(key)) != json.dumps(value)
            if changed and not key.endswith(OF_A_FOLDER) and not is_secret(key):
                found[key] = redact(value) if isinstance(value, str) else value
    return found


def _leaves(config: Any, top: str) -> dict[str, Any]:
    return {key: value for key, value in leaves(config) if below(key, [top])}
