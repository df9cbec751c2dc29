"""metrics.csv: one row for each step at which something was logged; no row is lost."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from hemnet.processes.ranks import rank
from hemnet.storage.files import read_table, write_records


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
