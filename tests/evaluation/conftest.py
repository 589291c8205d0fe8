"""Where the published files of the tasks are, for the tests that look at them."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def task_files() -> Path:
    """The folder that $DAYBREAK_TEST_DATA names, with hellaswag, lambada and wikitext-2 in it."""
    folder = os.environ.get("DAYBREAK_TEST_DATA")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("DAYBREAK_TEST_DATA names no folder with the tasks' files")
    return Path(folder)
