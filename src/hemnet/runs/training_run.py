"""A run directory that training writes: made or resumed, locked, and with a result.json however it ends."""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from hemnet.errors import HemnetError
from hemnet.processes.ranks import rank
from hemnet.processes.signals import Interrupted
from hemnet.runs import checkpoints, metrics_csv, own_packages
from hemnet.runs.identity import LENGTH, below, debugging, differences
from hemnet.runs.provenance import device_name, environment
from hemnet.runs.redaction import redact, redacted
from hemnet.runs.run import EARLIER, EARLIER_PARTS, ENVIRONMENT, EXTENDED, RESULT, Run
from hemnet.storage.files import entry, hold, read_json, replacing, write_json
from hemnet.wording import examples

log = logging.getLogger(__name__)
# To run.log alone: the command prints the error of its run itself (conf/train.yaml, hydra.job_logging).
failures = logging.getLogger("hemnet.failure")


@dataclass
class TrainingRun(Run):
    """The directory of a run in training; as a context manager it writes result.json however the block ends.

    With several ranks, rank 0 alone writes; the other ranks only read the directory.

    Attributes:
        complete: whether `create` has found the run finished, and nothing is left to do.
    """

    complete: bool = False
    _started: float = field(default_factory=time.monotonic)
    _outcome: dict[str, Any] = field(default_factory=dict)
    _lock: ExitStack = field(default_factory=ExitStack)
    _waiting: dict[str, Any] | None = None  # until `begin`: the old values of `LENGTH`

    @classmethod
    def create(
        cls, path: str | Path, config: DictConfig, resume: str | None = None, *, begin: bool = True
    ) -> Self:
        """Create a run directory with its config.yaml and environment.json, or resume the run that is there.

        Args:
            path: the directory.
            config: the run's configuration.
            resume: None refuses a directory that holds a run. "auto" resumes such a run, from the checkpoint
                `resumes_from`; a run whose `status` is "finished" is returned as it is. A run directory must
                be ``path``; it does the same, and if the keys `LENGTH` differ, the run is extended: also a
                finished one goes on.
            begin: whether a run that is resumed begins now. False leaves its files as they are until `begin`,
                so that a refusal of what the configuration asks for has changed nothing.

        Raises:
            HemnetError: the directory cannot be made; it holds a run and ``resume`` is None; that run has
                another configuration, see `differences`; it has come further than the new length;
                another process is training there; or ``resume`` names another directory.
        """
        run = cls(Path(path), config)
        extend = resume != "auto"
        if rank() != 0:
            run.complete = run.status == "finished" and not run._check_same(config, extend)
            return run
        if resume not in (None, "auto") and Path(resume).resolve() != run.path.resolve():
            raise HemnetError(
                f"resume={resume} resumes the run there, but run_dir={path} is another directory: leave out "
                "one of them, or copy the run"
            )
        exists = (run.path / "config.yaml").exists()
        if exists and resume is None:
            raise HemnetError(
                f"{path} already holds a run: choose another run_dir, delete it first, or resume it with "
                f"resume={path}"
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HemnetError(f"run_dir={path} cannot be made ({error}): choose another") from error
        longer = run._check_same(config, extend) if exists else {}
        run.complete = exists and run.status == "finished" and not longer
        if run.complete:
            return run
        busy = f"another process is training in {run.path}: wait for it or stop it"
        run._lock.enter_context(hold(run.path / ".lock", busy))
        run._waiting = longer
        if begin or not exists:
            run.begin()
        return run

    def _check_same(self, config: DictConfig, extend: bool) -> dict[str, Any]:
        """Raise if the run must not be resumed with a configuration; return the old values of `LENGTH`."""
        before = Run.open(self.path).config
        changed = differences(before, redacted(config))
        longer = [key for key in changed if below(key, LENGTH)]
        refused = [key for key in changed if not (extend and key in longer)]
        if refused:
            hint = f"; to train longer, give resume={self.path}" if refused == longer else ""
            raise HemnetError(
                f"the run in {self.path} was made with another configuration, differing in "
                f"{examples(refused, 5)}: choose another run_dir{hint}"
            )
        steps = OmegaConf.select(config, "trainer.max_steps")
        if longer and steps not in (None, -1) and steps <= self.saved_step:
            raise HemnetError(
                f"trainer.max_steps is {steps}, but the run in {self.path} has taken {self.saved_step} "
                "steps: give more"
            )
        return {key: OmegaConf.select(before, key) for key in longer}

    def begin(self) -> None:
        """Write what a run starts with, and clean up what an earlier part of it left; once."""
        if self._waiting is None:
            return
        longer, extended, self._waiting = self._waiting, self.extended, None
        earlier = max(self._saved.seconds, entry(self.result, "seconds", 0.0), self._earlier_seconds)
        for folder in ("checkpoints", "figures"):
            (self.path / folder).mkdir(exist_ok=True)
        checkpoints.clean(self.path / "checkpoints")
        # Training repeats the steps after the last checkpoint.
        metrics_csv.forget_from(self.path / "metrics.csv", self.saved_step)
        (self.path / RESULT).unlink(missing_ok=True)  # it says how the run ended before
        with replacing(self.path / "config.yaml") as part:  # without it, the run cannot be resumed
            OmegaConf.save(redacted(self.config), part)
        before = read_json(self.path / ENVIRONMENT)
        if longer:
            log.info(
                "the run is extended after step %d (%s): learning rates go on as in a run of the new length",
                self.saved_step, ", ".join(f"{key} was {value}" for key, value in longer.items()),
            )  # fmt: skip
        about: dict[str, Any] = environment() | ({EXTENDED: extended} if extended else {})
        about |= _of_earlier_parts(before, about) if self.saved_step else {}  # else all is repeated
        about |= {EARLIER: earlier} if earlier else {}
        about |= own_packages.record(OmegaConf.to_container(self.config))
        write_json(self.path / ENVIRONMENT, about)
        self.record(**self.progress())

    @property
    def extended(self) -> list[dict[str, Any]]:
        """Where the run was extended, also now: each ``step``, and ``before``, the old values of `LENGTH`."""
        known = entry(read_json(self.path / ENVIRONMENT), EXTENDED, [])
        return [*known, {"step": self.saved_step, "before": dict(self._waiting)}] if self._waiting else known

    @property
    def _earlier_seconds(self) -> float:
        """Seconds of the earlier parts of a resumed run; 0 if it was never resumed."""
        return entry(read_json(self.path / ENVIRONMENT), EARLIER, 0.0)

    def seconds(self, started: float | None = None) -> float:
        """Return how long the run has taken, with its earlier parts.

        A part whose process was killed counts until its last checkpoint.

        Args:
            started: when this part started, by ``time.monotonic``; None is when this object was made.
        """
        now = time.monotonic() - (self._started if started is None else started)
        return round(self._earlier_seconds + now, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if rank() != 0:
            return
        if self._waiting is not None and isinstance(error, HemnetError):
            self._lock.close()  # a resumed run that was refused is left as it was
            return
        status, note = "finished", dict[str, Any]()
        if error is not None:
            status = "preempted" if isinstance(error, KeyboardInterrupt | Interrupted) else "failed"
            note = {"error": redact(f"{type(error).__name__}: {error}")}
            # Errors meant for users explain themselves; any other error needs its traceback in run.log.
            plain = isinstance(error, HemnetError | Interrupted)
            failures.error("%s", error, exc_info=None if plain else error)
        result = {
            "status": status,
            "experiment": self.config.name,
            "seed": self.config.seed,
            "metrics": {},
            "seconds": 0.0,
            "steps": 0,
            "device": device_name(self.config.trainer.get("accelerator", "cpu")),
        }
        if limits := debugging(self.config):
            note["debug"] = limits
        try:
            self.begin()  # of a run that stopped before its first step
            write_json(self.path / RESULT, result | {"seconds": self.seconds()} | self._outcome | note)
        except OSError as failure:  # such as a full disk, which may also be why the run failed
            if error is None:
                raise
            log.error("%s could not be written (%s)", self.path / RESULT, failure)
        self._lock.close()

    def record(self, **outcome: Any) -> None:
        """Set entries of result.json, such as ``metrics``, which is written when the run ends."""
        self._outcome |= outcome


def _of_earlier_parts(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the entries `EARLIER_PARTS` of a resumed run, from its environment.json of before and of now."""
    found = {}
    for name, earlier in EARLIER_PARTS.items():
        known = [*entry(before, earlier, []), before.get(name)]
        if others := [one for i, one in enumerate(known) if one not in (None, now.get(name), *known[:i])]:
            found[earlier] = others
    return found
