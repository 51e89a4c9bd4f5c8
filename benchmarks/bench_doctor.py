"""
What `railcore doctor` costs: how long it looks at so many executions, question by question.

Two thirds of them are charges, the others refunds of every second charge, with two events each, in
a private cluster. They are written by SQL with the guards off, so that nothing is wrong with them.

    python benchmarks/bench_doctor.py --executions 100000
"""

import argparse
import time
from collections import Counter
from typing import Any

import sqlalchemy

from railcore_adapters.embedded import EmbeddedPostgres
from railcore_sqlalchemy import schema, tables
from railcore_sqlalchemy.doctor import diagnose

SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "4GB"}
# One charge a payment, completed in two steps; every second is given back in part.
FILL = """
alter table railcore_execution disable trigger all;
alter table railcore_payment disable trigger all;
alter table railcore_event disable trigger all;
create temp table made on commit drop as
  select n, 'inv-' || n as payment_id, 'charge' as operation, 1000 as amount,
    gen_random_uuid() as id, null::uuid as parent, 0 as seq
  from generate_series(1, {payments}) n;
insert into made
  select n, payment_id, 'refund', 400, gen_random_uuid(), id, 2 from made where n % 2 = 0;
insert into railcore_event
select 'acme', payment_id, seq + v.version, gen_random_uuid(), 'payment', v.type, id, v.version,
  v.before, v.after, 'card_psp', 'stub', payment_id || '/' || operation, now(),
  json_build_object('tenant_id', 'acme', 'payment_id', payment_id, 'execution_id', id,
    'operation', operation, 'amount_minor', amount, 'currency', 'SAR', 'payment_rail', 'card_psp',
    'payment_provider', 'stub', 'account', 'main', 'mode', 'live', 'version', v.version,
    'status', v.after, 'provider_ref', 'ch_' || n)
from made cross join (values
  (1, 'payment.execution.started', 'none', 'processing'),
  (2, 'payment.execution.completed', 'processing', 'completed')) v (version, type, before, after);
insert into railcore_payment (tenant_id, payment_id, seq, currency, due_minor, authorized, captured,
  refunded)
select 'acme', payment_id, max(seq) + 2, 'SAR', 1000, 1000, 1000,
  sum(case operation when 'refund' then amount else 0 end) from made group by payment_id;
insert into railcore_execution (tenant_id, execution_id, payment_id, operation, amount_minor,
  currency, idempotency_key, fingerprint, provider_key, rail, provider, account, mode,
  parent_execution_id, created_at, status, version, lease_token, send_count, first_sent_at,
  last_sent_at, check_count, updated_at, request, provider_ref)
select 'acme', id, payment_id, operation, amount, 'SAR', payment_id || '/' || operation,
  sha256('x'),
  'rc_' || id, 'card_psp', 'stub', 'main', 'live', parent, now(), 'completed', 2, 1, 1, now(),
  now(), 0, now(), '{{"asked": "for"}}', 'ch_' || n
from made;
alter table railcore_execution enable trigger all;
alter table railcore_payment enable trigger all;
alter table railcore_event enable trigger all;
"""


def main() -> None:
    """Fill a cluster, look at it, and print how long each question took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000)
    executions = parser.parse_args().executions
    with EmbeddedPostgres(SETTINGS, durable=False) as server:
        schema.install(server.url)
        schema.install_roles(server.url)
        engine = sqlalchemy.create_engine(server.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            text = FILL.format(payments=executions * 2 // 3)
            connection.exec_driver_sql(text, execution_options={"no_parameters": True}).close()
            for table, name in schema.guards():
                connection.exec_driver_sql(f"alter table {table} enable always trigger {name}")
        schema.analyze(engine)
        print(f"PostgreSQL {server.version}, {count(engine)}")
        look(engine)


def count(engine: sqlalchemy.Engine) -> str:
    """Return how much there is to look at."""
    with engine.connect() as connection:
        found = {
            table.name: connection.scalar(
                sqlalchemy.select(sqlalchemy.func.count()).select_from(table)
            )
            for table in (tables.execution, tables.event, tables.payment)
        }
    return ", ".join(f"{rows:,} {name}" for name, rows in found.items())


def look(engine: sqlalchemy.Engine) -> None:
    """Look three times; print the whole, and the five longest questions of the last."""
    for _ in range(3):
        took, begun = Counter[str](), [0.0]

        def before(*_: Any, begun: list[float] = begun) -> None:
            begun[0] = time.perf_counter()

        def after(*given: Any, took: Counter[str] = took, begun: list[float] = begun) -> None:
            took[" ".join(given[2].split()).rpartition(") f ) n ")[0][-100:]] += (
                time.perf_counter() - begun[0]
            )

        sqlalchemy.event.listen(engine, "before_cursor_execute", before)
        sqlalchemy.event.listen(engine, "after_cursor_execute", after)
        start = time.perf_counter()
        with engine.connect() as connection:
            report = diagnose(connection)
        whole = time.perf_counter() - start
        sqlalchemy.event.remove(engine, "before_cursor_execute", before)
        sqlalchemy.event.remove(engine, "after_cursor_execute", after)
        codes = sorted(one.code for one in report.findings)
        print(f"{whole:.2f} s, {len(report.looked_at)} questions, found {codes}")
    for text, seconds in took.most_common(5):
        print(f"  {seconds:.2f} s  ...{text}")


if __name__ == "__main__":
    main()
