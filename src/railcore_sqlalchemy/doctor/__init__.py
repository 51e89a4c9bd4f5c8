"""
Is the database as it has to be? Looks, changes nothing, and is safe in production.

::

    with engine.connect() as connection:
        report = diagnose(connection)
    for finding in report.findings:
        print(finding.code, finding.count, finding.places)

`diagnose` compares the catalogue with what ``sql/`` makes, roles and settings with what payments
need, and the rows with one another: states, versions, journal, sums, outbox, wallet. It takes one
read-only transaction on one snapshot, in which each statement has a time limit. A role that may
read the tables is enough; what it may not read is told as not looked at.

There is one colour: with an ``AsyncConnection``, ``await connection.run_sync(diagnose)``.
"""

from railcore.health import Finding, Place, Symptom
from railcore_sqlalchemy.doctor.looking import Bounds, Report, Unseen, diagnose
from railcore_sqlalchemy.doctor.symptoms import SYMPTOMS

__all__ = ["SYMPTOMS", "Bounds", "Finding", "Place", "Report", "Symptom", "Unseen", "diagnose"]
