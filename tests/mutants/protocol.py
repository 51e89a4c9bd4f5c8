"""Weakened rules of the call protocol, of the lifecycle, of the relay and of the webhooks."""

from typing import Final

from tests.mutants.mutation import Mutant

_CORE = "railcore/"
_KERNEL = _CORE + "kernel.py"
_PROCEDURES = _CORE + "procedures.py"
_LIFECYCLE = _CORE + "lifecycle.py"
_OF_KERNEL = "tests/core/test_kernel.py::"
_OF_ENGINE = "tests/core/test_engine.py::"
_OF_ENQUEUE = "tests/core/test_enqueue.py::"
_OF_LIFECYCLE = "tests/core/test_lifecycle.py::"
_OF_FOLLOW_UPS = "tests/core/test_follow_ups.py::"
_OF_INTAKE = "tests/core/test_intake.py::"
_OF_HYPERPAY = "tests/adapters/hyperpay/test_hyperpay_end_to_end.py::"
_OF_CONTEXT = "tests/core/test_context.py::"
_OF_RAILS = "tests/core/test_rails_http.py::"
_OF_FAILURES = "tests/core/test_failures.py::"
_OF_REVIEW = "tests/core/test_review.py::"
_OF_SIGNATURES = "tests/adapters/test_standard_webhooks.py::"
_OF_RELAY = "tests/core/test_relay.py::"

_SENDING = (
    Mutant(
        "R1: a request leaves before it is marked as sent again",
        _PROCEDURES,
        "        marked = yield from ask(\n"
        "            lambda: self.store.mark_sent(execution, self.kernel.settings.lease_s)\n"
        "        )\n",
        "        marked = execution\n",
        (_OF_ENGINE + "test_a_resend_is_marked_before_it_leaves",),
    ),
    Mutant(
        "R1: whoever lost the lease sends all the same",
        _PROCEDURES,
        "        return (yield from self._send(marked, send_by))",
        "        return (yield from self._send(marked or execution, send_by))",
        (_OF_ENGINE + "test_a_zombie_between_lookup_and_resend_sends_nothing",),
        also=(("        if marked is None:\n", "        if False:\n"),),
    ),
    Mutant(
        "R2: no send deadline",
        _PROCEDURES,
        "if send_by.has_passed():",
        "if False:",
        (_OF_ENGINE + "test_a_resend_mark_that_took_longer_than_the_send_deadline_sends_nothing",),
    ),
    Mutant(
        "R2: the deadline begins after the claim",
        _PROCEDURES,
        "        send_by = self.kernel.send_by(plan.timing)\n"
        "        outcome = yield from ask(lambda: self.store.claim(plan.claim))\n",
        "        outcome = yield from ask(lambda: self.store.claim(plan.claim))\n"
        "        send_by = self.kernel.send_by(plan.timing)\n",
        (_OF_ENGINE + "test_a_slow_claim_is_marked_anew_before_it_is_sent",),
    ),
    Mutant(
        "R3: resend after W",
        _KERNEL,
        "return at + settled < execution.first_sent_at",
        "return True or execution.first_sent_at",
        (
            _OF_KERNEL + "test_a_request_is_repeated_only_well_inside_the_key_window",
            _OF_ENGINE + "test_outside_the_key_window_nothing_is_sent_again",
        ),
    ),
    Mutant(
        "R3: resend until W, however long a request may be on its way",
        _KERNEL,
        "return at + settled < execution.first_sent_at",
        "return at < execution.first_sent_at",
        (_OF_KERNEL + "test_a_request_is_repeated_only_well_inside_the_key_window",),
    ),
    Mutant(
        "R3: W counts from the last send",
        _KERNEL,
        "settled < execution.first_sent_at",
        "settled < execution.last_sent_at",
        (_OF_KERNEL + "test_the_window_begins_with_the_first_send",),
    ),
    Mutant(
        "R3: a lookup takes no time",
        _KERNEL,
        "may_resend(execution, can, at + timedelta(seconds=took_s))",
        "may_resend(execution, can, at)",
        (_OF_ENGINE + "test_a_lookup_that_froze_past_the_key_window_resends_nothing",),
    ),
    Mutant(
        "R3: resend to a provider that knows no keys",
        _KERNEL,
        "if can.idempotency is Idempotency.NONE:",
        "if False:",
        (_OF_KERNEL + "test_without_idempotency_nothing_is_repeated",),
    ),
    Mutant(
        "R3: resend without a lookup",
        _PROCEDURES,
        "        result = yield from self._look_up(execution)\n"
        "        took_s = self.kernel.clock.monotonic() - started_s\n",
        "        result = RailResult.absent()\n        took_s = 0.0\n",
        (_OF_ENGINE + "test_a_lost_answer_is_unknown_and_is_found_again",),
    ),
    Mutant(
        "a retry carries another key",
        _CORE + "context.py",
        'text = f"{tenant_id} {operation} {idempotency_key} {step}"',
        'text = f"{tenant_id} {operation} {idempotency_key} {step} {object()}"',
        (_OF_CONTEXT + "test_the_provider_key_never_changes_from_release_to_release",),
    ),
    Mutant(
        "the provider's key forgets the tenant",
        _CORE + "context.py",
        'text = f"{tenant_id} {operation} {idempotency_key} {step}"',
        'text = f"{operation} {idempotency_key} {step}"',
        (_OF_ENGINE + "test_the_same_key_of_another_tenant_is_another_request",),
    ),
    Mutant(
        "enqueued work is sent after its time",
        _KERNEL,
        "return left_s is not None and left_s <= 0",
        "return False",
        (_OF_ENQUEUE + "test_what_could_not_be_sent_in_time_fails",),
    ),
    Mutant(
        "what a lost database forgot is sent again at once",
        _KERNEL,
        "return created_at < since or self.is_too_late(execution)",
        "return False",
        (_OF_ENQUEUE + "test_a_forgotten_send_is_found_before_the_first_one",),
    ),
    Mutant(
        "what came too late fails, whatever a lost database forgot",
        _KERNEL,
        "return created_at < since or self.is_too_late(execution)",
        "return created_at < since",
        (_OF_ENQUEUE + "test_what_came_too_late_was_charged_under_a_claim_that_was_lost",),
    ),
    Mutant(
        "what never left fails, whatever a lost database forgot",
        _KERNEL,
        "execution.tries > (0 if is_recovering else 1)",
        "execution.tries > 1",
        (
            _OF_ENQUEUE
            + "test_a_try_that_never_left_is_looked_up_where_its_claim_may_have_been_lost",
        ),
    ),
    Mutant(
        "what was in time at its lookup fails behind it",
        _PROCEDURES,
        "        if is_too_late:\n",
        "        if self.kernel.is_too_late(execution):\n",
        (_OF_ENQUEUE + "test_a_time_that_runs_out_behind_the_lookup_is_proven_by_none",),
    ),
    Mutant(
        "a lease shorter than a call",
        _KERNEL,
        "if settings.lease_s <= call_s:",
        "if False:",
        (_OF_ENGINE + "test_an_engine_whose_lease_is_too_short_does_not_start",),
    ),
    Mutant(
        "W <= D + L is taken",
        _CORE + "routing.py",
        "if self.key_window_s is not None and self.key_window_s <= settled:",
        "if False:",
        ("tests/core/test_routing.py::test_a_key_window_outlasts_the_latest_arrival",),
    ),
)

_PROVING = (
    Mutant(
        "R4: 404 is proof at once",
        _KERNEL,
        "return can.lookup_is_authoritative and waiting_s is not None and waiting_s < 0",
        "return can.lookup_is_authoritative and waiting_s is not None",
        (
            _OF_KERNEL + "test_absence_proves_something_only_after_arrival_and_read_lag",
            _OF_ENGINE + "test_without_idempotency_absence_waits_for_its_proof",
        ),
    ),
    Mutant(
        "R4: any provider's 404 is proof",
        _KERNEL,
        "return can.lookup_is_authoritative and waiting_s",
        "return waiting_s",
        (_OF_KERNEL + "test_a_lookup_that_is_not_authoritative_proves_nothing",),
        also=(
            (
                "if execution.last_sent_at is None or not can.lookup_is_authoritative:",
                "if execution.last_sent_at is None:",
            ),
        ),
    ),
    Mutant(
        "R4: the wait counts from the first send",
        _KERNEL,
        "proven_at = execution.last_sent_at",
        "proven_at = execution.first_sent_at",
        (_OF_KERNEL + "test_the_wait_begins_with_the_last_send",),
    ),
    Mutant(
        "R4: what the provider has named can be absent",
        _KERNEL,
        "if execution.provider_ref is not None:",
        "if False:",
        (_OF_KERNEL + "test_what_the_provider_has_named_is_never_proven_absent",),
    ),
    Mutant(
        "R5: a timeout is a failure",
        _CORE + "rails/exchanges.py",
        "case TransportError(may_have_left=False):",
        "case TransportError():",
        (_OF_RAILS + "test_what_may_have_left_is_unknown",),
    ),
    Mutant(
        "R5: a later error forgets that money may have left",
        _CORE + "rails/exchanges.py",
        "if code is None or money_may_have_left:",
        "if code is None:",
        (_OF_RAILS + "test_once_money_may_have_moved_no_later_error_makes_it_a_failure",),
    ),
    Mutant(
        "R5: an ambiguous code is definite",
        _CORE + "failures.py",
        'category.TRANSIENT, advice.LOOK_UP, "being_checked", ambiguous',
        'category.TRANSIENT, advice.LOOK_UP, "being_checked"',
        (_OF_FAILURES + "test_two_codes_are_ambiguous",),
    ),
    Mutant(
        "R5: an exception is a failure",
        _PROCEDURES,
        "yield from self._fold(execution, self.kernel.fact_of_exception)",
        "yield from self._fold(execution, self.kernel.fact_of_silence)",
        (_OF_ENGINE + "test_an_exception_in_a_rail_reaches_the_caller_and_the_row_says_unknown",),
    ),
    Mutant(
        "R5: a lookup that is refused is a refused payment",
        _KERNEL,
        "    return result.pending_reason is not PendingReason.OUTCOME_UNKNOWN and (\n"
        "        result.failure is None or result.failure.category is FailureCategory.PERMANENT\n"
        "    )\n",
        "    return result.pending_reason is not PendingReason.OUTCOME_UNKNOWN\n",
        (_OF_ENGINE + "test_a_lookup_that_is_refused_never_fails_what_was_sent",),
    ),
    Mutant(
        "a second try speaks for the first",
        _KERNEL,
        "if own_try and execution.tries > (0 if is_recovering else 1):",
        "if False:",
        (_OF_ENGINE + "test_a_resend_that_never_left_fails_nothing",),
    ),
    Mutant(
        "a zombie's try that never left counts",
        _KERNEL,
        "is_fenced=fact.is_fenced",
        "is_fenced=False",
        (_OF_ENGINE + "test_a_zombies_try_that_never_left_fails_nothing_while_another_is_at_it",),
    ),
    Mutant(
        "what a zombie did not find counts",
        _KERNEL,
        "            phase=execution.phase,\n            is_fenced=True,\n",
        "            phase=execution.phase,\n",
        (_OF_ENGINE + "test_uo5_what_a_zombie_did_not_find_proves_nothing_of_a_later_send",),
    ),
    Mutant(
        "R2: a deadline that never passes",
        _CORE + "clock.py",
        "return self.monotonic() > self.at_s",
        "return False",
        (_OF_KERNEL + "test_a_request_may_leave_until_the_send_deadline",),
    ),
    Mutant(
        "R7: another route after a timeout",
        _CORE + "failures.py",
        "return self.is_definite and self.category",
        "return self.category",
        (_OF_FAILURES + "test_another_route_is_tried_only_after_a_definite_transient_failure",),
    ),
)

_KNOWING = (
    Mutant(
        "a known key stands for any request",
        _KERNEL,
        "if stored.context.fingerprint == context.fingerprint:",
        "if True:",
        (_OF_ENGINE + "test_the_same_key_for_another_request_is_a_conflict",),
    ),
    Mutant(
        "the fingerprint forgets the amount",
        _CORE + "context.py",
        '            "amount_minor": self.money.amount_minor,\n',
        "",
        (_OF_CONTEXT + "test_the_fingerprint_never_changes_from_release_to_release",),
    ),
    Mutant(
        "a terminal state may be left",
        _LIFECYCLE,
        "ExecutionStatus.COMPLETED: frozenset(),",
        "ExecutionStatus.COMPLETED: frozenset({ExecutionStatus.FAILED}),",
        (
            _OF_LIFECYCLE + "test_the_edges_are_these_seven",
            _OF_LIFECYCLE + "test_a_terminal_execution_never_evolves",
        ),
    ),
    Mutant(
        "weaker news moves a state back",
        _LIFECYCLE,
        "case _ if rank_of_fact(fact) > rank_of(execution):",
        "case _ if True:",
        (_OF_LIFECYCLE + "test_weaker_news_never_moves_a_state_back",),
    ),
    Mutant(
        "the amount is not compared",
        _LIFECYCLE,
        "if reported is None or reported == asked:",
        "if True:",
        (
            _OF_LIFECYCLE + "test_another_amount_than_asked_completes_nothing",
            _OF_ENGINE + "test_another_amount_than_asked_is_doubt_and_a_discrepancy",
        ),
    ),
    Mutant(
        "the currency of a receipt is not compared",
        _LIFECYCLE,
        "if reported is None or reported.currency == asked.currency:",
        "if True:",
        (_OF_LIFECYCLE + "test_a_receipt_in_another_currency_is_not_counted",),
    ),
    Mutant(
        "the reference is not compared",
        _LIFECYCLE,
        "if result.provider_ref == execution.provider_ref:",
        "if True:",
        (_OF_LIFECYCLE + "test_contradictions_are_the_same_whichever_came_first",),
    ),
    Mutant(
        "money that comes after a failure is dropped",
        _LIFECYCLE,
        "            return Decision(\n"
        "                None, _late_success("
        "execution, fact.result.provider_ref, execution.failure)\n"
        "            )\n",
        "            return NO_NEWS\n",
        (_OF_LIFECYCLE + "test_contradictions_are_the_same_whichever_came_first",),
    ),
    Mutant(
        "the last receipt counts instead of the largest",
        _LIFECYCLE,
        "return max((amount for amount in (settled_minor, received)",
        "return min((amount for amount in (received, settled_minor)",
        (_OF_LIFECYCLE + "test_a_larger_receipt_counts_although_its_news_is_weaker",),
    ),
    Mutant(
        "a discrepancy is swallowed",
        _PROCEDURES,
        "            event = draft_discrepancy(execution, found)\n",
        "            continue\n            event = draft_discrepancy(execution, found)\n",
        (_OF_ENGINE + "test_another_amount_than_asked_is_doubt_and_a_discrepancy",),
    ),
    Mutant(
        "a payment does not count a refund in doubt",
        _CORE + "execution.py",
        "return self.captured_minor - self.refunded_minor - self.refunding_minor",
        "return self.captured_minor - self.refunded_minor",
        (_OF_KERNEL + "test_money_in_doubt_counts_against_the_limit",),
    ),
    Mutant(
        "a charge does not count its refund in doubt",
        _CORE + "execution.py",
        "alive = [one for one in executions if one.status is not ExecutionStatus.FAILED]",
        "alive = [one for one in executions if one.status is ExecutionStatus.COMPLETED]",
        (_OF_FOLLOW_UPS + "test_a_refund_in_doubt_counts_against_its_charge",),
    ),
    Mutant(
        "R6: a capture beside a void in doubt",
        _CORE + "follow_ups.py",
        "    _check_doubt(context, parent, executions)\n",
        "",
        (_OF_FOLLOW_UPS + "test_a_capture_and_a_void_wait_for_each_other",),
    ),
    Mutant(
        "R6: a refund before the first one is looked up",
        _PROCEDURES,
        "            yield from self._check_first(context.tenant_id, execution_id)\n",
        "            pass\n",
        (_OF_FOLLOW_UPS + "test_a_first_refund_that_took_place_is_found_before_a_second",),
    ),
    Mutant(
        "one person approves twice",
        _CORE + "rails/manual.py",
        "one.actor.casefold() == mine.actor.casefold()",
        "one == mine",
        ("tests/core/test_rails_manual.py::test_the_same_person_twice_is_refused",),
    ),
    Mutant(
        "an operator takes the lease of who acts",
        _PROCEDURES,
        "unheld = execution.changed(lease=_NO_LEASE)",
        "unheld = execution",
        ("tests/core/test_engine_operators.py::test_a_decision_leaves_the_workers_lease_alone",),
    ),
)

_TELLING = (
    Mutant(
        "delete before publish",
        _CORE + "relay.py",
        "        batch = _Batch(until)\n",
        "        batch = _Batch(until)\n"
        "        yield from ask(\n"
        "            lambda: self.outbox.acknowledge(lease, entries, (), settings.lease_s)\n"
        "        )\n",
        (_OF_RELAY + "test_a_cancelled_run_leaves_its_events",),
    ),
    Mutant(
        "what was not taken counts as delivered",
        _CORE + "relay.py",
        "                return batch.note(entry, error)\n            except Exception as error:",
        "                batch.note(entry, error)\n            except Exception as error:",
        (_OF_RELAY + "test_a_payment_stops_at_its_first_failure",),
    ),
    Mutant(
        "a relay that froze believes it has delivered",
        _CORE + "relay.py",
        "acknowledged=len(batch.taken) if is_held else 0,",
        "acknowledged=len(batch.taken),",
        (_OF_RELAY + "test_a_relay_that_froze_acknowledges_nothing",),
    ),
    Mutant(
        "a slow sink outlasts the lease",
        _CORE + "relay.py",
        "return not looks_down and not self.until.has_passed()",
        "return not looks_down",
        (_OF_RELAY + "test_a_slow_sink_is_acknowledged_well_before_the_lease_ends",),
    ),
    Mutant(
        "a sink that is down parks everything",
        _CORE + "relay.py",
        "counts = bool(batch.taken) or not self.health.is_down",
        "counts = True",
        (_OF_RELAY + "test_a_sink_that_is_down_for_an_hour_parks_nothing",),
    ),
    Mutant(
        "a redelivered event has another id",
        _CORE + "events.py",
        'name = f"{tenant_id}/{text_of(execution_id)}/{version}"',
        'name = f"{tenant_id}/{text_of(execution_id)}/{version}/{object()}"',
        ("tests/core/test_events.py::test_an_events_id_never_changes_from_release_to_release",),
    ),
    Mutant(
        "an unverified webhook is accepted",
        "railcore_adapters/standard_webhooks.py",
        "    if not fits:\n",
        "    if False:\n",
        (_OF_SIGNATURES + "test_another_body_id_or_time_does_not_fit",),
    ),
    Mutant(
        "an old webhook is accepted",
        "railcore_adapters/standard_webhooks.py",
        "    _check_age(int(timestamp), now, tolerance_s)\n",
        "",
        (_OF_SIGNATURES + "test_a_message_from_another_time_is_refused",),
    ),
    Mutant(
        "a webhook that cannot be verified is stored",
        _CORE + "intake.py",
        "            except WebhookRefusedError as error:\n"
        "                refused = WebhookRefusedError(provider, error.problem)\n",
        "            except WebhookRefusedError:\n"
        "                said = VerifiedDelivery(event_id=None, body=body, signed_at=None)\n"
        "                return _item(delivery, one, said)\n",
        (_OF_INTAKE + "test_what_is_not_proven_leaves_no_row",),
    ),
    Mutant(
        "ack before store",
        _CORE + "intake.py",
        "        verdict = yield from ask(lambda: self.webhooks.inbox.receive(kept, lease_s))\n",
        "        verdict = InboxVerdict.ACCEPTED\n"
        "        with suppress(StoreError):\n"
        "            yield from ask(lambda: self.webhooks.inbox.receive(kept, lease_s))\n",
        (
            _OF_INTAKE + "test_a_delivery_that_cannot_be_kept_is_our_fault",
            _OF_INTAKE + "test_the_same_delivery_again_changes_nothing",
        ),
    ),
    Mutant(
        "a provider is believed that is not to be",
        _CORE + "intake.py",
        "if trust is WebhookTrust.BODY:",
        "if True:",
        (_OF_INTAKE + "test_a_provider_that_is_not_believed_is_asked",),
    ),
    Mutant(
        "news of an unknown payment is forgotten",
        _CORE + "intake.py",
        "        if problem is None:\n            return _APPLIED\n",
        "        if True:\n            return _APPLIED\n",
        (_OF_INTAKE + "test_news_of_an_unknown_payment_waits_for_it",),
    ),
    Mutant(
        "cards are kept as they came",
        _CORE + "intake.py",
        "        return _safe(item.body, references)\n",
        "        return item.body\n",
        (_OF_INTAKE + "test_card_numbers_are_masked_before_they_are_kept",),
    ),
    Mutant(
        "an encrypted copy is told apart by its bytes",
        _CORE + "intake.py",
        "hashlib.sha256(said.body)",
        "hashlib.sha256(delivery.body)",
        (_OF_HYPERPAY + "test_a_charge_is_settled_by_its_webhook",),
    ),
)

PROTOCOL: Final = (*_SENDING, *_PROVING, *_KNOWING, *_TELLING)
