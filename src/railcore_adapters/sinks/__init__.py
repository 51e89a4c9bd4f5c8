"""
Where events go: into this process, onto a terminal, to a signed HTTP endpoint, to a broker.

A sink takes one event at a time and returns when its receiver has it durably; the relay does the
rest. The sinks for HTTP and for brokers are loaded when they are first asked for, for they need
extras: ``railcore[httpx]`` and ``railcore[faststream]``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from railcore_adapters.sinks.in_process import (
    AsyncCallableSink,
    AsyncPrintedSink,
    CallableSink,
    PrintedSink,
    line_of,
)

if TYPE_CHECKING:
    from railcore_adapters.sinks.faststream import FastStreamSink
    from railcore_adapters.sinks.http import AsyncHttpSink, Endpoint, HttpSink
    from railcore_adapters.sinks.targets import Targets

__all__ = [
    "AsyncCallableSink",
    "AsyncHttpSink",
    "AsyncPrintedSink",
    "CallableSink",
    "Endpoint",
    "FastStreamSink",
    "HttpSink",
    "PrintedSink",
    "Targets",
    "line_of",
]

_HOME_OF: Final = {
    "AsyncHttpSink": "http",
    "Endpoint": "http",
    "FastStreamSink": "faststream",
    "HttpSink": "http",
    "Targets": "targets",
}

if not TYPE_CHECKING:  # a type checker shall know the names above, and no others

    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value: object = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
