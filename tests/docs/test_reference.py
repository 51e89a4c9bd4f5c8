"""The reference pages that are made from the code are what the code says."""

import runpy
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_page_of_names_is_what_the_code_says() -> None:
    maker = runpy.run_path(str(REFERENCE / "make_names.py"))

    assert (REFERENCE / "names.md").read_text() == maker["page"](), (
        "Write the page anew: python docs/reference/make_names.py"
    )


@pytest.mark.parametrize("name", ["failure-codes.md", "states.md"])
def test_the_pages_of_tables_are_what_the_code_says(name: str) -> None:
    maker = runpy.run_path(str(REFERENCE / "make_states.py"))

    assert (REFERENCE / name).read_text() == maker["PAGES"][name](), (
        "Write the pages anew: python docs/reference/make_states.py"
    )


def test_the_page_of_findings_is_what_the_code_says() -> None:
    maker = runpy.run_path(str(REFERENCE / "make_findings.py"))

    assert (REFERENCE / "findings.md").read_text() == maker["page"](), (
        "Write the page anew: python docs/reference/make_findings.py"
    )


def test_the_page_of_hyperpays_codes_is_what_the_code_says() -> None:
    maker = runpy.run_path(str(REFERENCE / "make_hyperpay.py"))

    assert (REFERENCE / "hyperpay-codes.md").read_text() == maker["page"](), (
        "Write the page anew: python docs/reference/make_hyperpay.py"
    )
