import pytest
from _helpers.four_patches import four_patches

from hemnet.runs.run import Run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose components are known; tests write their pages elsewhere."""
    return four_patches(tmp_path_factory.mktemp("patches"))
