"""What the quick tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node import Node, nodes_at
from zfsganeti import datasets


@pytest.fixture(scope="session", autouse=True)
def _locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Locks lie where nobody needs to be root."""
    datasets.LOCKS = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def nodes(tmp_path: Path) -> Callable[[], Node]:
    """One new node after the other, all at the same path so that their states can be compared."""
    return nodes_at(tmp_path)
