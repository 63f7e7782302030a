"""What the quick tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node import Node
from zfsganeti import datasets


@pytest.fixture(scope="session", autouse=True)
def _locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Locks lie where nobody needs to be root."""
    datasets.LOCKS = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)
