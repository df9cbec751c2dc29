"""What Lightning, torch or the system refuse, as errors of the configuration that name its keys."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from hemnet.config.explain import ConfigError
from hemnet.errors import HemnetError
from hemnet.runs.identity import leaves
from hemnet.training.inference import SHORTAGE
from hemnet.wording import one_line

LIGHTNING = {"pytorch_lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"}
# Errors that torch raises for an argument that it does not take. Its RuntimeErrors may also be faults of this
# project, so those are explained only where `EXPLAINED` knows them.
OF_ARGUMENTS = (ValueError, TypeError, NotImplementedError, ImportError, OSError)
# What messages that do not name their key are about: a pattern, the key, and the remedy.
EXPLAINED = (
    (r"No supported gpu backend|CUDAAccelerator.+not|MPSAccelerator.+not", "trainer.accelerator",
     "there is no GPU here that torch can use; trainer=cpu runs without one"),
    (r"You requested gpu|devices=|invalid device ordinal", "trainer.devices",
     "give as many as this machine has"),
    (r"more than 1 value per channel", "data.batch_size",
     "batch normalisation has a single value per channel: give 2 or more images, or larger crops"),
    ("|".join(SHORTAGE), "data.batch_size",
     "the memory does not suffice: give fewer images, or data.train_transform.crop_size smaller, and "
     "trainer.accumulate_grad_batches larger"),
    (r"deterministic", "trainer.deterministic",
     "an operation has no deterministic form here: give warn or false"),
    (r"more than one stateful callback", "callbacks",
     "callbacks of one class need different settings, such as another monitor"),
    (r"DataLoader worker|shared memory|shm\b", "data.num_workers", "give fewer"),
    (r"inductor|C\+\+ compiler|BackendCompilerFailed|dynamo", "task.compile", "give false"),
)  # fmt: skip
LONGEST = 600


@contextmanager
def refusals(config: DictConfig) -> Iterator[None]:
    """Raise a `ConfigError` in place of an error by which a setting is refused, see `refusal`."""
    try:
        yield
    except Exception as error:
        if (said := refusal(error, config)) is None:
            raise
        raise said from error


def refusal(error: BaseException, config: Any, prefix: str = "") -> ConfigError | None:
    """Return the error to show for one that Lightning, torch or the system raised; None if it is a fault.

    The code that raised an error decides what it is. Lightning checks settings until well into training, and
    any error that its code raises is a refusal. An error from the code of this project, or one that says
    nothing of settings, is a fault, and keeps its traceback.

    Args:
        error: what was raised.
        config: the configuration, or the node of it that was being built; the message may name its keys.
        prefix: the key of that node; named if the message has no key.
    """
    if isinstance(error, HemnetError):
        return None
    text = f"{type(error).__name__}: {error}"
    known = next((item for item in EXPLAINED if re.search(item[0], text, re.IGNORECASE)), None)
    source = _source(error)
    refused = isinstance(error, MisconfigurationException | torch.OutOfMemoryError) or source in LIGHTNING
    refused = refused or (source == "torch" and (isinstance(error, OF_ARGUMENTS) or known is not None))
    refused = refused or (source == "hydra" and isinstance(error, OSError | ValueError))
    refused = refused or (source != "hemnet" and isinstance(error, ImportError))
    if not refused:
        return None
    reason = one_line(error, LONGEST)
    if known is not None:
        return ConfigError(f"{known[1]}: {reason}: {known[2]}")
    keys = _named(reason, config, prefix) or ([prefix] if prefix else [])
    return ConfigError(f"{', '.join(keys)}: {reason}" if keys else f"the configuration is refused: {reason}")


def _source(error: BaseException) -> str:
    """Return the package whose code raised an error, or called the standard library that did."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [module.partition(".")[0] for module in modules]
    return next((name for name in reversed(packages) if name not in sys.stdlib_module_names), "")


def _named(text: str, config: Any, prefix: str) -> list[str]:
    """Return the keys of a configuration whose last part a message names as code does: a_b, `a`, 'a', a=."""
    words = {word for word in re.findall(r"\w+", text) if "_" in word}
    words |= set(re.findall(r"[`'\"](\w+)[`'\"=]", text)) | set(re.findall(r"\b(\w+)=", text))
    plain = OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else config
    keys = [f"{prefix}.{key}" if prefix else key for key, _ in leaves(plain)]
    found = [key for key in keys if key.rpartition(".")[2] in words]
    return [key for key in found if key.startswith("trainer.")] or found[:3]
