"""Fakes, conversations and contract classes for hosts and for authors of adapters."""
