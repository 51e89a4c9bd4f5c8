"""
The command line: ``railcore demo``, ``railcore run`` and ``railcore schema``.

It is a host like any other; ``wiring`` shows how one puts railcore together.
"""

try:
    from railcore_adapters.cli.app import main
except ModuleNotFoundError as error:
    if error.name != "click":
        raise
    raise ImportError(
        "the command line needs click and rich: pip install 'railcore[cli]'"
    ) from error

__all__ = ["main"]
