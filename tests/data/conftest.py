from pathlib import Path

import pytest
from _helpers.camvid_files import write_camvid


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    return write_camvid(tmp_path / "camvid", {"train": 6, "val": 3})
