"""Events as CloudEvents 1.0, structured, in JSON."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.envelope import CONTENT_TYPE, cloud_event, partition_key, structured
from railcore.errors import DeliveryError
from railcore.events import EventType, JournalEvent, draft_event
from railcore.execution import PaymentExecution
from tests.core.made import ID, NOW, context, execution

ATTRIBUTES_OF_CLOUD_EVENTS = {
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "data",
}
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
events = st.builds(
    JournalEvent,
    tenant_id=visible,
    payment_id=visible,
    seq=st.integers(1, 2**63 - 1),
    event_id=st.uuids(),
    type=st.sampled_from(EventType),
    execution_id=st.uuids(),
    version=st.none() | st.integers(1, 2**31 - 1),
    from_status=st.sampled_from(["none", "processing", "pending"]),
    to_status=st.sampled_from(["processing", "pending", "completed", "failed"]),
    payment_rail=visible,
    payment_provider=visible,
    idempotency_key=visible,
    payload=st.dictionaries(st.text(), anything),
    occurred_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


def event(**changes: Any) -> JournalEvent:
    draft = draft_event(execution())
    told = JournalEvent(
        tenant_id="acme",
        payment_id="inv-1",
        seq=1,
        event_id=draft.event_id,
        type=draft.type,
        execution_id=ID,
        version=1,
        from_status="none",
        to_status="processing",
        payment_rail="card_psp",
        payment_provider="stub",
        idempotency_key="inv-1/1",
        payload=draft.payload,
        occurred_at=NOW,
    )
    return attrs.evolve(told, **changes)


def test_an_event_looks_the_same_from_release_to_release() -> None:
    said = event(payload={"amount_minor": 1250, "currency": "SAR", "correlation_id": "req-7"})

    assert CONTENT_TYPE == "application/cloudevents+json"
    assert structured(said) == (
        b'{"correlationid":"req-7",'
        b'"data":{"amount_minor":1250,"correlation_id":"req-7","currency":"SAR",'
        b'"execution_id":"018f4d0e-0000-7000-8000-000000000001","from_status":"none",'
        b'"idempotency_key":"inv-1/1","payment_id":"inv-1","payment_provider":"stub",'
        b'"payment_rail":"card_psp","seq":1,"tenant_id":"acme","to_status":"processing",'
        b'"version":1},'
        b'"datacontenttype":"application/json","id":"dc7b9180-5616-5691-840d-51588c30a622",'
        b'"partitionkey":"acme/inv-1","sequence":"0000000000000000001","source":"/railcore",'
        b'"specversion":"1.0","subject":"inv-1","tenantid":"acme",'
        b'"time":"2026-03-01T12:00:00.000000Z","type":"billing.execution.started"}'
    )


@given(events)
def test_every_event_keeps_the_rules_of_cloud_events(said: JournalEvent) -> None:
    read = json.loads(structured(said))

    assert {"specversion", "id", "source", "type"} <= set(read)
    for name, value in read.items():
        assert re.fullmatch("[a-z0-9]{1,20}", name)
        if name != "data":
            assert isinstance(value, str)
            assert value
    assert set(read) - ATTRIBUTES_OF_CLOUD_EVENTS <= {
        "tenantid",
        "partitionkey",
        "sequence",
        "correlationid",
    }


@given(events)
def test_a_redelivery_has_the_same_bytes(said: JournalEvent) -> None:
    backwards = dict(reversed(list(said.payload.items())))
    elsewhere = timezone(timedelta(hours=3))
    try:
        at = said.occurred_at and said.occurred_at.astimezone(elsewhere)
    except OverflowError:
        at = said.occurred_at

    assert structured(said) == structured(attrs.evolve(said, payload=backwards, occurred_at=at))


@given(events)
def test_the_columns_of_the_journal_have_the_last_word(said: JournalEvent) -> None:
    data = json.loads(structured(said))["data"]

    assert data["seq"] == said.seq
    assert data["version"] == said.version
    assert (data["from_status"], data["to_status"]) == (said.from_status, said.to_status)
    assert data["payment_rail"] == said.payment_rail
    assert data["payment_provider"] == said.payment_provider
    assert data["idempotency_key"] == said.idempotency_key
    assert set(said.payload) <= set(data)


@given(visible, visible, visible, visible)
def test_only_one_payment_has_its_partition_key(
    tenant: str, payment: str, other_tenant: str, other_payment: str
) -> None:
    one = partition_key(event(tenant_id=tenant, payment_id=payment))
    other = partition_key(event(tenant_id=other_tenant, payment_id=other_payment))

    assert (one == other) == ((tenant, payment) == (other_tenant, other_payment))
    assert partition_key(event(tenant_id="a/b", payment_id="c")) != partition_key(
        event(tenant_id="a", payment_id="b/c")
    )


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_sequences_sort_as_texts(one: int, other: int) -> None:
    first, second = (str(cloud_event(event(seq=seq))["sequence"]) for seq in (one, other))

    assert (first < second) == (one < other)


def test_what_is_no_json_is_poison() -> None:
    with pytest.raises(DeliveryError) as caught:
        structured(event(payload={"amount": float("nan")}))

    assert caught.value.is_poison


def test_who_pays_with_what_stays_at_home() -> None:
    asked = attrs.evolve(
        context(),
        payer_token="payer-of-the-host",
        instrument_token="src_very_private",
        return_url="https://shop.example/thanks?who=alice",
        metadata={"email": "alice@example.org"},
    )
    started = PaymentExecution(
        execution_id=UUID(int=1),
        context=asked,
        rail=execution().rail,
        provider="stub",
        account="main",
        mode=execution().mode,
    )

    told = structured(event(payload=draft_event(started).payload)).decode()

    for private in ("payer-of-the-host", "src_very_private", "shop.example", "alice"):
        assert private not in told


def test_an_undated_event_has_no_time() -> None:
    assert "time" not in cloud_event(event(occurred_at=None))


def test_the_time_is_in_utc_to_the_microsecond() -> None:
    at = datetime(2026, 3, 1, 3, 0, 0, 5, tzinfo=timezone(timedelta(hours=3)))

    assert cloud_event(event(occurred_at=at))["time"] == "2026-03-01T00:00:00.000005Z"
