"""What is wrong with what the server says of itself: rows in, (code, subject, found) out."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from railcore.lifecycle import EDGES
from railcore_sqlalchemy.doctor import catalogue
from railcore_sqlalchemy.doctor.catalogue import Found, Right
from railcore_sqlalchemy.schema import MIGRATIONS

Row = Mapping[str, Any]
"""As a statement of ``sql/doctor`` gives it; which columns, its file says."""

_OLDEST_SERVER: Final = 140_000
_BUCKETS: Final = 64
_POWERS: Final = ("superuser", "bypassrls", "createrole")
_BOUND: Final = re.compile(r"[1-9]")


def of_server(row: Row, connections: int | None) -> Iterator[Found]:
    """Yield what is wrong with the server, and with how sessions begin on it."""
    if row["version"] < _OLDEST_SERVER:
        yield "server_too_old", "the server", f"version {row['version'] // 10_000}"
    if row["is_standby"]:
        yield "standby", "the server", "in recovery"
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if row[name] == "off":
            yield "commit_not_durable", "the server", f"{name} is off"
    if row["session_replication_role"] == "replica":
        yield "replication_role", f"role {row['role']}", "session_replication_role is replica"
    if connections is not None and connections > row["connections"]:
        told = f"{connections} wanted, at most {row['connections']} to be had"
        yield "connections_too_many", "the server", told


def of_override(row: Row) -> Iterator[Found]:
    """Yield what a setting of a role or of the database breaks."""
    is_commit = row["setting"].startswith("synchronous_commit")
    code = "commit_not_durable" if is_commit else "replication_role"
    yield code, f"role {row['role']}", row["setting"]


def of_roles(rows: Sequence[Row], wanted: Sequence[str]) -> Iterator[Found]:
    """Yield what is wrong with railcore's roles, and with who logs in as one."""
    by_name = {row["role"]: row for row in rows}
    for name in wanted:
        if name not in by_name:
            yield "role_missing", f"role {name}", "missing"
    for name, row in by_name.items():
        if might := [power for power in _POWERS if row[power]]:
            yield "role_too_mighty", f"role {name}", ", ".join(might)
    for row in rows:
        if row["is_writing"] and not _BOUND.search(row["value"] or ""):
            yield "role_without_timeout", f"role {row['role']}", f"{row['name']} is not set"


def of_rights(rows: Sequence[Row]) -> Iterator[Found]:
    """Yield rights that are missing, and those beyond what a role or its groups have to have."""
    groups = {row["role"]: row["groups"] for row in rows}
    found = {Right(row["role"], row["of"], row["privilege"]) for row in rows}
    wanted = catalogue.recorded_rights()
    for right in sorted(wanted - found):
        yield "right_missing", f"role {right.role}", f"{right.privilege} on {right.of}"
    for right in sorted(found - wanted):
        if not any(right.as_of(group) & wanted for group in groups[right.role]):
            yield "right_too_many", f"role {right.role}", f"{right.privilege} on {right.of}"


def of_versions(found: Sequence[str]) -> Iterator[Found]:
    """Yield what is wrong with the revisions that migrations noted."""
    known = sorted(path.stem for path in MIGRATIONS.glob("railcore_*.py"))
    for version in found:
        if version not in known:
            yield "migration_unknown", f"revision {version}", f"known are {', '.join(known)}"
        elif version != known[-1]:
            yield "migration_behind", f"revision {version}", f"the newest is {known[-1]}"


def of_constants(row: Row) -> Iterator[Found]:
    """Yield what is wrong with the rows that the schema itself brings."""
    found = frozenset(row["edges"])
    wanted = frozenset(f"{before} {after}" for before, after in EDGES)
    for edge in sorted(found ^ wanted):
        yield "edges_differ", f"edge {edge}", "too many" if edge in found else "missing"
    if row["buckets"] != _BUCKETS:
        yield "buckets_missing", "table railcore_bucket", f"{row['buckets']} of {_BUCKETS} rows"
