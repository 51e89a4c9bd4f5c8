"""The example files that the demo plays: inside an installed package, above it in a checkout."""

from importlib.resources import files
from pathlib import Path

from railcore.errors import MisconfiguredError


def example(name: str) -> Path:
    """
    Return the path of an example file.

    Raises:
        MisconfiguredError: It came with neither the package nor a checkout.
    """
    packed = Path(str(files("railcore_adapters.cli"))) / "examples" / name
    checkout = Path(__file__).parents[3] / "examples" / name
    for path in (packed, checkout):
        if path.is_file():
            return path
    problem = f"the example {name} is missing from this installation"
    raise MisconfiguredError(str(packed), problem, "Install railcore again, or name a file")
