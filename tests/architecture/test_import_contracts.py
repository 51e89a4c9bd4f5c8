"""Who may import whom is written in pyproject.toml and holds."""

import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_import_contract_holds() -> None:
    linter = Path(sysconfig.get_path("scripts")) / "lint-imports"

    outcome = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert outcome.returncode == 0, outcome.stdout
    assert "0 broken" in outcome.stdout
