"""What training writes while it goes on: metrics.csv and checkpoints, both such that nothing is lost."""

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from hemnet import checkpoints
from hemnet.files import read_table, write_records
from hemnet.ranks import rank


class MetricsFile(CSVLogger):
    """metrics.csv in the run directory; a run that is resumed adds to its rows, where Lightning deletes them.

    At every moment the rows so far are in the file.

    Args:
        save_dir: the run directory.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    def experiment(self) -> Any:
        """The writer of the file; on the ranks but the first, one that does nothing."""
        if self._experiment is None and rank() == 0:
            self._experiment = _Rows(self.log_dir)
        return super().experiment


class _Rows(ExperimentWriter):
    """Lightning's writer, which deletes the rows of before, and rewrites all in place for a new column."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _check_log_dir_exists(self) -> None:
        """Let the file be."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        write_records(path, fieldnames, read_table(path))


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
