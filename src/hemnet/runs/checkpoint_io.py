"""How Lightning writes and reads the checkpoints of a run."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO

from hemnet.runs import checkpoints


class SafeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one it replaces, brings it to disk, and then renames it.

    Lightning's own way writes in the folder for temporary files and copies from there: where the copy fails,
    the checkpoint before is lost too. See `hemnet.runs.checkpoints`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``, which holds the one before until this one is whole."""
        checkpoints.write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint that is what was written, on the CPU; nothing in it is executed."""
        return checkpoints.read(Path(path))
