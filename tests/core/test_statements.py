"""What people see of references like card numbers, and of charges that a statement lacks."""

from typing import Any

import attrs
import pytest

from railcore.errors import InvalidValueError, NoRemedyError
from railcore.events import draft_orphan
from railcore.execution import PaymentExecution
from railcore.failures import PaymentFailureCode
from railcore.lifecycle import DiscrepancyKind
from railcore.results import RailResult
from railcore.review import NotedDiscrepancy, Remedy
from tests.core.hosts import COLOURS, Colour, Host, run
from tests.core.made import ASKED, context
from tests.core.test_review import ORPHAN, made_of, only, resolve, review, tell


@pytest.fixture(params=COLOURS)
def host(request: pytest.FixtureRequest) -> Host:
    colour: Colour = request.param
    return Host(colour)


def test_an_orphan_shows_no_reference_like_a_card_number() -> None:
    found = attrs.evolve(ORPHAN, provider_ref="4111111111111111")

    assert found.discrepancy.provider_ref == "4111111111111111"
    shown = f"{found} {found.discrepancy} {draft_orphan(found)}"
    assert "4111111111111111" not in shown
    assert "railcore~411111~111111~1111" in shown


def test_of_two_references_like_card_numbers_the_other_one_is_adopted(host: Host) -> None:
    one, other = "4111111111111111", "4111110000000021111"
    host.rail.answer = lambda asked: RailResult.success(one, asked.money)
    execution = host.execute(context())
    noted = tell(host, execution, RailResult.success(other, ASKED))

    done = resolve(host, noted, Remedy.ADOPT)

    assert (execution.provider_ref, made_of(host, done).provider_ref) == (one, other)
    assert one not in repr(execution)


# Missing at the provider ------------------------------------------------------------------------


def missing(host: Host, execution: PaymentExecution, evidence: str) -> NotedDiscrepancy:
    engine: Any = host.engine
    noted: NotedDiscrepancy = run(
        engine.note_missing(execution.tenant_id, execution.execution_id, evidence)
    )
    return noted


def test_rc5_what_a_statement_lacks_is_noted_once(host: Host) -> None:
    execution = host.execute(context())

    first, again = (missing(host, execution, name) for name in ("statement-7", "statement-8"))

    assert first == again == only(host)
    assert first.discrepancy.kind is DiscrepancyKind.MISSING_AT_PROVIDER
    assert (first.execution_id, first.discrepancy.evidence) == (
        execution.execution_id,
        "statement-7",
    )
    event = host.store.events("acme", execution.payment_id)[-1]
    assert (event.payload["kind"], event.payload["evidence"]) == (
        "missing_at_provider",
        "statement-7",
    )


def test_rc5_what_a_statement_lacks_is_accepted_on_evidence_and_stays_so(host: Host) -> None:
    execution = host.execute(context())
    noted = missing(host, execution, "statement-7")

    done = resolve(host, noted, Remedy.ACCEPTED)

    assert not review(host).discrepancies
    assert done.resolved is not None
    assert done.resolved.evidence == "statement-7"
    assert missing(host, execution, "statement-9") == done


@pytest.mark.parametrize("remedy", [Remedy.ADOPT, Remedy.REFUND])
def test_what_a_statement_lacks_is_no_money_to_be_booked(host: Host, remedy: Remedy) -> None:
    noted = missing(host, host.execute(context()), "statement-7")

    with pytest.raises(NoRemedyError, match="no money came"):
        resolve(host, noted, remedy)


def test_no_statement_has_to_have_what_was_declined(host: Host) -> None:
    host.rail.answer = lambda _: RailResult.failed(PaymentFailureCode.DECLINED)
    execution = host.execute(context())

    with pytest.raises(InvalidValueError, match="completed"):
        missing(host, execution, "statement-7")
