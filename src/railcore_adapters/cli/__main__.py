"""``python -m railcore_adapters.cli`` is the command ``railcore``."""

from railcore_adapters.cli import main

if __name__ == "__main__":
    main(prog_name="railcore")
