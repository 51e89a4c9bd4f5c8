"""Weakened rules of the call protocol, of the lifecycle and of the relay."""

from typing import Final

from tests.mutants.mutation import Mutant

PROTOCOL: Final[tuple[Mutant, ...]] = ()
