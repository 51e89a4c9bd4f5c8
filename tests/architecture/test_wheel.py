"""What a user gets when they install railcore."""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHES = re.compile(r"(^|/)(__pycache__|\.[^/]+)/|\.egg-info/")
PACKAGES = ("railcore", "railcore_sqlalchemy", "railcore_adapters")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as built:
        yield built


@pytest.fixture
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_says_that_each_package_is_typed(wheel: zipfile.ZipFile, package: str) -> None:
    assert f"{package}/py.typed" in wheel.namelist()


def test_the_wheel_holds_nothing_but_the_three_packages(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in wheel.namelist()}

    assert {folder for folder in folders if not folder.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_every_file_of_the_source(wheel: zipfile.ZipFile) -> None:
    below = [path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*") if path.is_file()]
    source = {path.as_posix() for path in below if not CACHES.search(path.as_posix())}

    assert source - set(wheel.namelist()) == set()


@pytest.mark.parametrize("name", ["billing-run.jsonl", "routes.toml"])
def test_the_demo_plays_the_example_of_the_repository(wheel: zipfile.ZipFile, name: str) -> None:
    packed = wheel.read(f"railcore_adapters/cli/examples/{name}")

    assert packed == (ROOT / "examples" / name).read_bytes()


def test_installing_railcore_brings_two_packages(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]

    assert sorted(line.split(">")[0] for line in required) == ["attrs", "typing-extensions"]


def test_every_extra_is_in_the_wheel(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
