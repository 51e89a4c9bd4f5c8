"""``railcore doctor``: is everything as it has to be, and if not, what, where, and what to do."""

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import attrs
import sqlalchemy
from rich.console import Console
from rich.text import Text

from railcore.errors import InvalidValueError, MisconfiguredError
from railcore.health import Finding, Place, Symptom, check_settings
from railcore.kernel import EngineSettings
from railcore.routing import ConfigDrivenRouteResolver
from railcore_adapters.cli.configuration import read_configuration
from railcore_adapters.cli.wiring import Wishes, make_rails
from railcore_adapters.credentials import EnvironmentCredentials
from railcore_adapters.embedded import open_database
from railcore_adapters.transport_httpx import TransportLimits
from railcore_sqlalchemy.doctor import Bounds, Report, Unseen, diagnose

HEALTHY: Final = 0
FOUND: Final = 1
COULD_NOT_LOOK: Final = 2

_NEVER_CUT_S: Final = 86_400.0
_NOWHERE: Final = "http://stub.invalid"
_REFUSED: Final = Symptom(
    "configuration_refused",
    "The configuration is one with which nothing starts.",
    "Correct it as it says.",
)


@attrs.frozen(kw_only=True)
class Doctor:
    """
    What to look at.

    Attributes:
        database_url: The database.
        routes: The configuration; None looks at none.
        lease_s: What workers and hosts are started with.
        bounds: From when on waiting is a finding.
        tenant_id: Whose rows; None for all.
        since: Only payments that had news since.
        limit: How many places of a finding are named.
        timeout_s: For how long one question may take.
        with_roles: Whether railcore's roles are in use.
        with_relay: Whether a relay is meant to run.
        connections: How many all processes may hold together.
    """

    database_url: str = attrs.field(repr=False)
    routes: Path | None = None
    lease_s: float = 60.0
    bounds: Bounds = attrs.field(factory=Bounds)
    tenant_id: str | None = None
    since: datetime | None = None
    limit: int = 20
    timeout_s: float = 60.0
    with_roles: bool = True
    with_relay: bool = True
    connections: int | None = None

    def look(self) -> "Diagnosis":
        """Return what was found."""
        begun = time.monotonic()
        settings = () if self.routes is None else self._settings(self.routes)
        report = self._database()
        return Diagnosis(
            findings=(*settings, *report.findings),
            unseen=report.unseen,
            looked_at=(*(() if self.routes is None else ("settings",)), *report.looked_at),
            took_s=time.monotonic() - begun,
        )

    def _database(self) -> Report:
        with open_database(self.database_url) as database:
            engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
            with engine.connect() as connection:
                return diagnose(
                    connection,
                    bounds=self.bounds,
                    tenant_id=self.tenant_id,
                    since=None if self.since is None else self.since.astimezone(),
                    limit=self.limit,
                    timeout_s=self.timeout_s,
                    with_roles=self.with_roles,
                    with_relay=self.with_relay,
                    connections=self.connections,
                )

    def _settings(self, path: Path) -> tuple[Finding, ...]:
        """Look at the configuration with the bounds that providers have, none of them cut."""
        wishes = Wishes(
            database_url=self.database_url,
            configuration=read_configuration(path),
            credentials=EnvironmentCredentials(),
            stub_url=_NOWHERE,
            lease_s=_NEVER_CUT_S,
        )
        try:
            rails = make_rails(wishes, cast("Any", _Nobody()), cast("Any", _Nobody()))
            ConfigDrivenRouteResolver.from_mapping(
                wishes.configuration.routes, offered=rails.offered
            )
            settings = EngineSettings(lease_s=self.lease_s)
        except (InvalidValueError, MisconfiguredError) as error:
            place = Place(subject=f"file {path.name}", found=str(error))
            return (Finding(symptom=_REFUSED, places=(place,), count=1),)
        total_s = TransportLimits().total_s
        return check_settings(settings, rails.offered, transport_total_s=total_s)


class _Nobody:
    """Takes the place of a transport and of a wallet that nobody asks."""

    send = answer = None


@attrs.frozen(kw_only=True)
class Diagnosis:
    """What the doctor found."""

    findings: Sequence[Finding]
    unseen: Sequence[Unseen]
    looked_at: Sequence[str]
    took_s: float

    @property
    def exit_status(self) -> int:
        """The exit status: 1 when something is wrong, 2 when something was not looked at."""
        if self.findings:
            return FOUND
        return COULD_NOT_LOOK if self.unseen else HEALTHY


def as_json(diagnosis: Diagnosis) -> dict[str, object]:
    """Return *diagnosis* for programs."""
    return {
        "exit_status": diagnosis.exit_status,
        "is_healthy": diagnosis.exit_status == HEALTHY,
        "findings": [
            {
                "code": finding.code,
                "meaning": finding.symptom.meaning,
                "remedy": finding.symptom.remedy,
                "count": finding.count,
                "places": [attrs.asdict(place) for place in finding.places],
            }
            for finding in diagnosis.findings
        ],
        "not_looked_at": [attrs.asdict(one) for one in diagnosis.unseen],
        "looked_at": list(diagnosis.looked_at),
        "took_s": round(diagnosis.took_s, 3),
    }


def show(console: Console, diagnosis: Diagnosis) -> None:
    """Print *diagnosis* for people, the verdict last."""
    for finding in diagnosis.findings:
        _show(console, finding)
    for one in diagnosis.unseen:
        console.print(Text.assemble((f"not looked at: {one.what}: ", "bold yellow"), one.why))
    console.print(verdict(diagnosis))


def _show(console: Console, finding: Finding) -> None:
    console.print(Text.assemble((finding.code, "bold red"), f": {finding.symptom.meaning}"))
    for place in finding.places:
        whose = "" if not place.tenant_id else f" of {place.tenant_id}"
        console.print(Text(f"  {place.subject}{whose}: {place.found}"))
    if finding.count > len(finding.places):
        console.print(Text(f"  and {finding.count - len(finding.places):,} more"))
    console.print(Text(f"  What to do: {finding.symptom.remedy}", "dim"))
    console.print()


def verdict(diagnosis: Diagnosis) -> Text:
    """Return one sentence on the whole."""
    took = f"{len(diagnosis.looked_at)} questions in {diagnosis.took_s:.1f} s"
    if diagnosis.findings:
        kinds = len(diagnosis.findings)
        places = sum(finding.count for finding in diagnosis.findings)
        things = "1 thing is wrong" if kinds == 1 else f"{kinds} things are wrong"
        where = "1 place" if places == 1 else f"{places:,} places"
        return Text(f"{things}, in {where}; {took}.", "bold red")
    if diagnosis.unseen:
        return Text(f"Nothing wrong in what could be looked at; {took}.", "bold yellow")
    return Text(f"All is well; {took}.", "bold green")
