"""The pytest plugin: the fixture ``railcore_sandbox``, a fresh sandbox for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from railcore_adapters.sandbox.sandbox import Sandbox


@pytest.fixture
def railcore_sandbox() -> Iterator[Sandbox]:
    """Fake providers over real HTTP on loopback, with a ledger of truth."""
    with Sandbox() as sandbox:
        yield sandbox
