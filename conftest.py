"""Run every example: the README, the docs and the docstrings are tests."""

from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

if TYPE_CHECKING:
    from collections.abc import Sequence

pages = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md"],
    name="pages",
)
docstrings = Sybil(
    parsers=[DocTestParser()],
    path="src",
    patterns=["*.py"],
    document_types={".py": PythonDocStringDocument},
    name="docstrings",
)

pytest_collect_file = (pages + docstrings).pytest()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: "Sequence[pytest.Item]") -> None:
    """Keep the examples of one page in one process: each builds on those above it."""
    for item in items:
        if item.name.startswith("sybil:"):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
