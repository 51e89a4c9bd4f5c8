"""Weakened rules of the database: statements, constraints, guards and roles."""

from typing import Final

from tests.mutants.mutation import Mutant

_SQL = "railcore_sqlalchemy/sql/"
_SCHEMA = _SQL + "schema.sql"
_STATEMENTS = "tests/sqlalchemy/test_sql_statements.py::"
_GUARDS = "tests/sqlalchemy/test_sql_guards.py::"
_RACES = "tests/sqlalchemy/test_sql_races.py::"
_FOLLOW_UPS = "tests/sqlalchemy/test_follow_up_guards.py::"
_WALLET = "tests/sqlalchemy/test_wallet_sql.py::"
_STORE = "tests/contract/test_execution_store.py::TestPostgres::"
_OUTBOX = "tests/contract/test_outbox.py::TestPostgres::"
_INBOX = "tests/contract/test_webhook_inbox.py::TestPostgres::"
_REVIEWING = "tests/sqlalchemy/test_review_sql.py::"
_REVIEW = "tests/contract/test_review_store.py::TestPostgres::"

_RECORDS = (
    Mutant(
        "an answer without `version =`",
        _SQL + "record.sql",
        " and version = :version::integer\n",
        "\n",
        (_STATEMENTS + "test_an_answer_to_another_state_is_stale[single-given0]",),
    ),
    Mutant(
        "answers in bulk without `version =`",
        _SQL + "record_many.sql",
        " and s.version = i.version",
        "",
        (_STATEMENTS + "test_an_answer_to_another_state_is_stale[many-given0]",),
        also=((" and e.version = i.version", ""),),
    ),
    Mutant(
        "an answer to a follow-up without `version =`",
        _SQL + "record_followup.sql",
        " and version = :version::integer\n",
        "\n",
        (_STATEMENTS + "test_an_answer_to_a_follow_up_counts_for_its_version",),
    ),
    Mutant(
        "an answer without `status =`",
        _SQL + "record.sql",
        "status = :from_status::text and version",
        "version",
        (_STATEMENTS + "test_an_answer_to_another_state_is_stale[single-given1]",),
    ),
    Mutant(
        "a try that never left counts from anybody",
        _SQL + "record.sql",
        "    and (lease_token = w.token or not :fenced::boolean)\n",
        "",
        (_STORE + "test_what_speaks_for_an_old_try_alone_is_no_news",),
    ),
    Mutant(
        "a try that never left counts from anybody, in bulk",
        _SQL + "record_many.sql",
        "\n          and (s.lease_token = i.token or not i.fenced)",
        "",
        (_STATEMENTS + "test_an_answer_to_another_state_is_stale[many-given4]",),
        also=(("\n      and (e.lease_token = i.token or not i.fenced)", ""),),
    ),
    Mutant(
        "anybody's answer ends the lease",
        _SQL + "record.sql",
        "lease_owner = case when lease_token = w.token then null else lease_owner end",
        "lease_owner = null",
        (_STATEMENTS + "test_news_of_others_leaves_lease_and_schedule[single]",),
    ),
    Mutant(
        "anybody's answer moves the schedule",
        _SQL + "record.sql",
        "      when lease_token = w.token then now()",
        "      when true then now()",
        (_STATEMENTS + "test_news_of_others_leaves_lease_and_schedule[single]",),
    ),
    Mutant(
        "a charge in doubt makes room for another",
        _SQL + "record.sql",
        "case when over then amount_minor else 0 end",
        "amount_minor",
        (_STORE + "test_doubt_counts_as_collected",),
    ),
    Mutant(
        "a refund in doubt makes room for another",
        _SQL + "record_followup.sql",
        "case when over and operation = 'refund' then",
        "case when operation = 'refund' then",
        (_STATEMENTS + "test_money_in_doubt_counts_against_the_refund_limit[single]",),
    ),
    Mutant(
        "a change that is told to nobody",
        _SQL + "record.sql",
        "  select :bucket::smallint, tenant_id, :payment_id::text, seq, now() from p\n",
        "  select :bucket::smallint, tenant_id, :payment_id::text, seq, now() from p where false\n",
        (_OUTBOX + "test_every_event_of_the_journal_waits_as_it_is",),
    ),
)

_CLAIMS = (
    Mutant(
        "a charge whatever is due",
        _SQL + "claim.sql",
        "+ :amount_minor::bigint > due_minor then 'live'",
        "+ :amount_minor::bigint > due_minor and false then 'live'",
        (_STATEMENTS + "test_a_second_live_charge_of_the_debt_is_refused[single-charge]",),
    ),
    Mutant(
        "what was voided stays taken",
        _SQL + "claim.sql",
        "charging + authorized - voided + :amount_minor",
        "charging + authorized + :amount_minor",
        (_STATEMENTS + "test_what_was_voided_is_due_again[single]",),
    ),
    Mutant(
        "ON CONFLICT joins a payment of another currency",
        _SQL + "claim.sql",
        "  where head.currency = excluded.currency\n",
        "",
        (_RACES + "test_of_two_first_charges_at_once_one_sets_the_currency",),
    ),
    Mutant(
        "a claim whatever moved since it was decided",
        _SQL + "claim_followup.sql",
        "      when seq <> :head_seq::bigint then 'moved'\n",
        "",
        (_STATEMENTS + "test_a_decision_on_an_older_head_is_moved[single]",),
    ),
    Mutant(
        "a head that is looked at without its lock",
        _SQL + "claim_followup.sql",
        "  for no key update\n",
        "",
        (_RACES + "test_who_waited_for_a_payment_decides_on_what_it_has_become[refund]",),
    ),
    Mutant(
        "a charge that looks at a head without its lock",
        _SQL + "claim.sql",
        "    for no key update\n",
        "",
        (_RACES + "test_who_waited_for_a_payment_decides_on_what_it_has_become[charge]",),
    ),
    Mutant(
        "a refund in doubt does not count",
        _SQL + "claim_followup.sql",
        "captured - refunded - refunding",
        "captured - refunded",
        (_STATEMENTS + "test_money_in_doubt_counts_against_the_refund_limit[single]",),
    ),
    Mutant(
        "a refund in doubt does not count, in bulk",
        _SQL + "claim_many.sql",
        "h.captured - h.refunded - h.refunding",
        "h.captured - h.refunded",
        (_STATEMENTS + "test_money_in_doubt_counts_against_the_refund_limit[many]",),
    ),
    Mutant(
        "a capture in doubt does not count",
        _SQL + "claim_followup.sql",
        "authorized - captured - capturing - voided - voiding",
        "authorized - captured - voided - voiding",
        (_STATEMENTS + "test_captures_and_voids_share_what_is_authorized[single]",),
    ),
    Mutant(
        "two claims of one payment in one batch",
        _SQL + "claim_many.sql",
        "      when not i.first then 'again'\n",
        "",
        (_STATEMENTS + "test_the_rows_of_one_claim_do_not_hurt_each_other",),
    ),
    Mutant(
        "a follow-up of no payment",
        _SQL + "claim_many.sql",
        "when i.operation not in ('charge', 'authorize') then 'no_payment' end",
        "when false then 'no_payment' end",
        (_STATEMENTS + "test_nothing_follows_a_payment_that_is_not_there[many-refund]",),
    ),
)

_LEASES = (
    Mutant(
        "a lease is taken although it is held",
        _SQL + "acquire.sql",
        " and (lease_until is null or lease_until <= now())",
        "",
        (_STORE + "test_a_held_lease_is_not_acquired",),
    ),
    Mutant(
        "a lease is taken without a new token",
        _SQL + "acquire.sql",
        "lease_token = lease_token + 1",
        "lease_token = lease_token",
        (_STORE + "test_an_expired_lease_is_acquired_with_a_new_token",),
    ),
    Mutant(
        "what is due is taken although it is held",
        _SQL + "acquire_due.sql",
        " and (x.lease_until is null or x.lease_until <= now())",
        "",
        (_STORE + "test_a_lease_is_respected_even_where_a_look_is_due",),
    ),
    Mutant(
        "what is due is taken without a new token",
        _SQL + "acquire_due.sql",
        "lease_token = x.lease_token + 1",
        "lease_token = x.lease_token",
        (_STORE + "test_an_expired_lease_is_taken_over_with_a_newer_token",),
    ),
    Mutant(
        "what is due is taken without a next look",
        _SQL + "acquire_due.sql",
        "  next_check_at = now() + make_interval(secs => :lease_s::float8),\n",
        "",
        (_STORE + "test_what_is_due_is_taken_with_a_lease_and_a_next_look",),
    ),
    Mutant(
        "what is due is found without `for update`",
        _SQL + "acquire_due.sql",
        "  for no key update skip locked\n",
        "",
        (_STORE + "test_of_many_takers_each_execution_has_one",),
    ),
    Mutant(
        "a send mark forgets the token",
        _SQL + "mark_sent.sql",
        " and lease_token = :token::bigint",
        "",
        (_STATEMENTS + "test_a_writer_that_lost_its_lease_marks_and_reschedules_nothing",),
    ),
    Mutant(
        "a send mark without a lease",
        _SQL + "mark_sent.sql",
        "lease_owner = :lease_owner::text and",
        "",
        (_STORE + "test_who_holds_no_lease_sends_nothing",),
    ),
    Mutant(
        "the schedule forgets the token",
        _SQL + "reschedule.sql",
        " and lease_token = :token::bigint",
        "",
        (_STATEMENTS + "test_a_writer_that_lost_its_lease_marks_and_reschedules_nothing",),
    ),
    Mutant(
        "a refused try is put back by anybody",
        _SQL + "put_back.sql",
        " and lease_token = :token::bigint",
        "",
        (_STORE + "test_an_old_token_puts_nothing_back",),
    ),
)

_CONSTRAINTS = (
    Mutant(
        "no CHECK that an open execution has a date",
        _SCHEMA,
        ",\n  constraint never_forgotten check "
        "((status in ('processing', 'pending')) = (next_check_at is not null))",
        "",
        (_GUARDS + "test_an_open_execution_says_why_and_when",),
    ),
    Mutant(
        "no key from a state to its event",
        _SCHEMA,
        "  constraint state_has_event foreign key (tenant_id, execution_id, version, status)\n"
        "    references railcore_event (tenant_id, execution_id, version, to_status),\n",
        "",
        (_GUARDS + "test_a_state_without_its_event_is_refused",),
    ),
    Mutant(
        "any event of the version does for a state",
        _SCHEMA,
        "(tenant_id, execution_id, version, status)\n"
        "    references railcore_event (tenant_id, execution_id, version, to_status)",
        "(tenant_id, execution_id, version)\n"
        "    references railcore_event (tenant_id, execution_id, version)",
        (_GUARDS + "test_the_event_of_another_state_does_not_do",),
        also=(
            (
                "unique (execution_id, version, to_status, tenant_id)",
                "unique (execution_id, version, tenant_id)",
            ),
        ),
    ),
    Mutant(
        "no key from a head to its event",
        _SCHEMA,
        ",\n  constraint head_has_event foreign key (tenant_id, payment_id, seq)\n"
        "    references railcore_event (tenant_id, aggregateid, seq)",
        "",
        (_GUARDS + "test_a_step_of_a_payment_without_its_event_is_refused",),
    ),
    Mutant(
        "a head moves as far as it likes",
        _SCHEMA,
        "tg_op = 'UPDATE' and new.seq = old.seq + 1)",
        "tg_op = 'UPDATE')",
        (_GUARDS + "test_a_head_moves_by_one_and_within_its_limits",),
    ),
    Mutant(
        "a guard without the limit of what is due",
        _SCHEMA,
        "     and new.charging + new.authorized - new.voided <= new.due_minor\n",
        "",
        (_RACES + "test_one_of_four_racing_first_charges_wins[single]",),
    ),
    Mutant(
        "a guard without the limit of captures",
        _SCHEMA,
        "     and new.captured + new.capturing + new.voided + new.voiding <= new.authorized\n",
        "",
        (_GUARDS + "test_a_head_moves_by_one_and_within_its_limits",),
    ),
    Mutant(
        "a guard without the limit of refunds",
        _SCHEMA,
        "     and new.refunded + new.refunding <= new.captured\n",
        "",
        (_GUARDS + "test_a_head_moves_by_one_and_within_its_limits",),
    ),
    Mutant(
        "no look at the parent",
        _SCHEMA,
        "      perform railcore_check_parent(new);\n",
        "      null;\n",
        (
            _FOLLOW_UPS + "test_no_authorization_gives_more_than_it_holds",
            _FOLLOW_UPS + "test_a_parent_is_completed_of_the_payment_in_its_currency",
        ),
    ),
    Mutant(
        "the parent's sums without the head's lock",
        _SCHEMA,
        "  perform from railcore_payment\n"
        "    where tenant_id = asked.tenant_id and payment_id = asked.payment_id"
        " for no key update;\n",
        "",
        (_FOLLOW_UPS + "test_sixty_and_sixty_of_one_charge_of_two_wait_for_each_other",),
    ),
    Mutant(
        "doubt does not count against the parent",
        _SCHEMA,
        "e.version = 1 and x.status <> 'failed'",
        "e.version = 1 and x.status = 'completed'",
        (_FOLLOW_UPS + "test_a_charge_gives_back_its_own_money_once",),
    ),
    Mutant(
        "a finished execution may go on",
        _SCHEMA,
        "new.version = old.version + 1 and old.status in ('processing', 'pending')\n",
        "new.version = old.version + 1\n",
        (
            _GUARDS + "test_only_the_edges_of_the_core_can_be_walked",
            _GUARDS + "test_a_finished_execution_never_changes",
        ),
    ),
    Mutant(
        "an execution may begin finished",
        _SCHEMA,
        "  if new.version = 1 and new.status = 'processing' and new.pending_reason",
        "  if new.version = 1 and new.pending_reason",
        (_GUARDS + "test_an_execution_starts_as_processing",),
    ),
    Mutant(
        "a journal that can be edited",
        _SCHEMA,
        "create trigger event_change before update or delete on railcore_event\n",
        "create trigger event_change before delete on railcore_event\n",
        (_GUARDS + "test_the_journal_is_append_only",),
    ),
    Mutant(
        "a journal that a replica can edit",
        _SCHEMA,
        "alter table railcore_event enable always trigger event_change;\n",
        "",
        (_GUARDS + "test_the_journal_is_append_only",),
    ),
    Mutant(
        "an amount that can be edited",
        _SCHEMA,
        "payment_id, operation, amount_minor, currency,\n    idempotency_key",
        "payment_id, operation, currency,\n    idempotency_key",
        (_GUARDS + "test_what_was_asked_never_changes",),
    ),
    Mutant(
        "a token that goes back",
        _SCHEMA,
        "     and new.lease_token >= old.lease_token and new.send_count >= old.send_count\n",
        "     and new.send_count >= old.send_count\n",
        (_GUARDS + "test_no_change_of_state_takes_a_token_back",),
    ),
    Mutant(
        "the app may delete",
        _SQL + "roles.sql",
        "grant update on railcore_execution, railcore_payment to railcore_app;",
        "grant update, delete on railcore_execution, railcore_payment to railcore_app;",
        (_GUARDS + "test_a_role_does_only_its_work",),
    ),
    Mutant(
        "the relay may look at executions",
        _SQL + "roles.sql",
        "grant select on railcore_event, railcore_outbox, railcore_bucket to railcore_relay;",
        "grant select on railcore_event, railcore_outbox, railcore_bucket, railcore_execution"
        " to railcore_relay;",
        (_GUARDS + "test_a_role_does_only_its_work",),
    ),
)

_DELIVERY = (
    Mutant(
        "a cursor instead of a queue",
        _SQL + "outbox_waiting.sql",
        "    where o.bucket = :bucket::smallint and o.aggregateid = h.aggregateid"
        " and o.tenant_id = h.tenant_id\n",
        "    where o.bucket = :bucket::smallint and o.aggregateid = h.aggregateid"
        " and o.tenant_id = h.tenant_id\n"
        "      and o.enqueued_at > coalesce((select max(d.occurred_at) from railcore_event d"
        " where not exists (select from railcore_outbox w where (w.aggregateid, w.tenant_id, w.seq)"
        " = (d.aggregateid, d.tenant_id, d.seq))), '-infinity')\n",
        ("tests/faults/test_relay_faults.py::test_ob1_what_commits_late_is_not_skipped",),
    ),
    Mutant(
        "what was delivered is removed by anybody",
        _SQL + "outbox_acknowledge.sql",
        " and token = :token::bigint and owner = :owner::text",
        "",
        (_OUTBOX + "test_who_has_lost_the_lease_changes_nothing",),
    ),
    Mutant(
        "what was delivered is removed whatever token one has",
        _SQL + "outbox_acknowledge.sql",
        " and token = :token::bigint",
        "",
        (_OUTBOX + "test_who_has_lost_the_lease_to_its_namesake_changes_nothing",),
    ),
    Mutant(
        "a bucket is taken although it is held",
        _SQL + "outbox_lease.sql",
        "(f.until is null or f.until <= now()) and exists",
        "exists",
        (_OUTBOX + "test_a_bucket_has_one_holder",),
    ),
    Mutant(
        "a bucket is taken without a new token",
        _SQL + "outbox_lease.sql",
        "token = b.token + 1",
        "token = b.token",
        (_OUTBOX + "test_who_has_lost_the_lease_to_its_namesake_changes_nothing",),
    ),
    Mutant(
        "a bucket is found without `for update`",
        _SQL + "outbox_lease.sql",
        "  for no key update skip locked)",
        "  )",
        (_OUTBOX + "test_racing_relays_lease_different_buckets",),
    ),
    Mutant(
        "what waits behind a parked event is delivered",
        _SQL + "outbox_waiting.sql",
        " and not q.waits",
        "",
        (_OUTBOX + "test_a_replayed_payment_stops_where_it_was_parked",),
    ),
    Mutant(
        "another body under a known event is the same",
        _SQL + "inbox_receive.sql",
        "case when body_sha256 = :body_hash::bytea then 'duplicate' else 'conflict' end",
        "'duplicate'",
        (_INBOX + "test_another_body_under_the_same_event_is_refused",),
    ),
    Mutant(
        "an earlier try settles a delivery",
        _SQL + "inbox_settle.sql",
        " and attempts = :attempts::integer",
        "",
        (_INBOX + "test_an_earlier_try_settles_nothing",),
    ),
    Mutant(
        "a try of a delivery without a next date",
        _SQL + "inbox_due.sql",
        "next_attempt_at = now() + make_interval(secs => :lease_s::float8)",
        "next_attempt_at = now()",
        (_INBOX + "test_no_two_take_the_same",),
    ),
    Mutant(
        "deliveries are found without `for update`",
        _SQL + "inbox_due.sql",
        "  for no key update skip locked\n",
        "",
        (_INBOX + "test_no_two_take_the_same",),
    ),
    Mutant(
        "one charge is booked twice",
        _SQL + "book_adopted.sql",
        " and not exists (",
        " and true or exists (",
        (_REVIEWING + "test_what_an_execution_has_completed_with_is_not_adopted",),
    ),
)

_BOOKS = (
    Mutant(
        "a customer without a limit",
        _SQL + "wallet.sql",
        "  constraint wallet_available check"
        " (credits_posted - debits_posted - debits_pending >= 0),\n",
        "",
        (_WALLET + "test_a_customer_cannot_be_overdrawn_by_hand",),
    ),
    Mutant(
        "holds do not count as taken",
        _SQL + "wallet_transfer.sql",
        "credits_posted - debits_posted - debits_pending as available",
        "credits_posted - debits_posted as available",
        ("tests/contract/test_wallet.py::TestOnPostgres::test_a_hold_reserves",),
    ),
    Mutant(
        "accounts are looked at without their locks",
        _SQL + "wallet_transfer.sql",
        "  order by account_id for no key update\n",
        "  order by account_id\n",
        (_WALLET + "test_wa2_opposite_transfers_neither_overspend_nor_deadlock",),
    ),
    Mutant(
        "a hold is resolved as often as asked",
        _SQL + "wallet.sql",
        "create unique index railcore_wallet_transfer_resolution",
        "create index railcore_wallet_transfer_resolution",
        (_WALLET + "test_a_second_resolution_is_refused_by_hand",),
    ),
    Mutant(
        "a resolution need not fit its hold",
        _SQL + "wallet.sql",
        "elsif new.amount_minor > hold.amount_minor or",
        "elsif",
        (_WALLET + "test_a_resolution_that_does_not_fit_its_hold_is_refused_by_hand",),
    ),
)

SQL: Final = (*_RECORDS, *_CLAIMS, *_LEASES, *_CONSTRAINTS, *_DELIVERY, *_BOOKS)
