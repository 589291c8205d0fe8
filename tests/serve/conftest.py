"""One server for all tests of a process that do not need their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Client, hosted, serving


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    with serving(hosted(), hosted("dusk", seed=1)) as one:
        yield one
        assert one.said == []
