import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data():
    """Return the path of a real data file, or skip with the name of the absent one."""
    folder = Path(os.environ.get("PYG_CKD_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

    def find(name: str) -> Path:
        if not (folder / name).is_file():
            pytest.skip(f"{folder / name} is absent; set PYG_CKD_DATA to the folder that holds it")
        return folder / name

    return find
