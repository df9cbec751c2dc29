"""What training writes while it goes on: metrics.csv and checkpoints, both such that nothing is lost."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.loggers import CSVLogger

from hemnet import checkpoints
from hemnet.files import read_table


class MetricsFile(CSVLogger):
    """metrics.csv in the run directory; a run that is resumed adds to its rows, where Lightning deletes them.

    Args:
        save_dir: the run directory.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    def experiment(self) -> Any:
        """Lightning's writer; on the ranks but the first, one that does nothing."""
        if self._experiment is None:
            earlier = read_table(Path(self.log_dir) / "metrics.csv")
            writer = super().experiment  # deletes the file
            if earlier:
                writer.metrics = earlier
                writer.save()
        return super().experiment


class SafeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one it replaces, brings it to disk, and then renames it.

    Lightning's own way writes in the folder for temporary files and copies from there: where the copy fails,
    the checkpoint before is lost too. See `hemnet.checkpoints`.
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
