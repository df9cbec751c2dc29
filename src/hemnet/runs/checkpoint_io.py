"""The plugin through which Lightning writes and reads the checkpoints of a run."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO

from hemnet.runs import checkpoints


class SafeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints with `hemnet.runs.checkpoints.write` and reads them with `read` of that module.

    Lightning's own plugin writes to the system's temporary folder and copies from there, so that a copy that
    fails destroys the previous checkpoint too.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``, which keeps its old content until the new one is complete."""
        checkpoints.write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint, its tensors on the CPU; its hash is verified and nothing in it is executed."""
        return checkpoints.read(Path(path))
