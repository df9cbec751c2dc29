"""metrics.csv: one row for each step at which something was logged."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from hemnet.processes.ranks import rank
from hemnet.storage.files import read_table, write_records


class MetricsFile(CSVLogger):
    """Writes metrics.csv in the run directory; a resumed run appends, where Lightning would delete the file.

    A process that is killed at any moment loses no row that was saved.

    Args:
        save_dir: the run directory.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__(save_dir, name="", version="")

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: config.yaml has them."""

    @property
    def experiment(self) -> Any:
        """The writer of the file on rank 0; an object that does nothing on the other ranks."""
        if self._experiment is None and rank() == 0:
            self._experiment = _Rows(self.log_dir)
        return super().experiment


class _Rows(ExperimentWriter):
    """A writer of UTF-8, whatever the locale, that loses no rows when a process is killed.

    Overrides two private methods of Lightning's writer, and the one that appends.
    """

    def _check_log_dir_exists(self) -> None:
        """Keep the existing file; Lightning deletes it."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        # Lightning rewrites the file in place.
        path = Path(self.metrics_file_path)
        write_records(path, fieldnames, read_table(path))

    def save(self) -> None:
        """Append the rows that were logged since the last call."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        if (
            not self.metrics_keys and path.is_file()
        ):  # not before, since a run that begins may shorten the file
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])
        if self._record_new_keys() and path.is_file():
            self._rewrite_with_new_header(self.metrics_keys)
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            if not file.tell():
                writer.writeheader()
            writer.writerows(self.metrics)
        self.metrics = []
