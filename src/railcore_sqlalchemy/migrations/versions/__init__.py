"""The revisions; each runs files of ``sql/``."""
