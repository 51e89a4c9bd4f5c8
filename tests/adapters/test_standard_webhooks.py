"""Standard Webhooks, signed and checked; everything that is wrong is refused in one way."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.errors import InvalidValueError, MisconfiguredError, WebhookRefusedError
from railcore.redaction import Secret
from railcore_adapters.standard_webhooks import check_secret, sign, verify

SECRET = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
OTHER = Secret(f"whsec_{base64.b64encode(b'k' * 32).decode()}")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
BODY = b'{"type":"charge.succeeded"}'


def signed(
    secret: Secret = SECRET, message_id: str = "msg_1", at: int = AT, body: bytes = BODY
) -> dict[str, str]:
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(secret, message_id, at, body),
    }


def test_a_message_that_we_signed_is_taken() -> None:
    assert verify([SECRET], signed(), BODY, NOW) == "msg_1"


def test_header_names_are_read_in_any_case() -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert verify([SECRET], headers, BODY, NOW) == "msg_1"


def test_the_prefix_of_a_secret_may_be_missing() -> None:
    bare = Secret(SECRET.reveal().removeprefix("whsec_"))
    assert verify([bare], signed(), BODY, NOW) == "msg_1"


def test_wh7_two_secrets_overlap_while_one_follows_the_other() -> None:
    for secret in (SECRET, OTHER):
        assert verify([OTHER, SECRET], signed(secret), BODY, NOW) == "msg_1"
    with pytest.raises(WebhookRefusedError):
        verify([OTHER], signed(SECRET), BODY, NOW)


def test_one_of_several_signatures_is_enough() -> None:
    headers = signed(OTHER)
    both = f"v1a,AAAA {headers['webhook-signature']} {signed()['webhook-signature']}"
    assert verify([SECRET], {**headers, "webhook-signature": both}, BODY, NOW) == "msg_1"


def test_another_body_id_or_time_does_not_fit() -> None:
    headers = signed()
    for changed, body in (
        (headers, BODY + b" "),
        ({**headers, "webhook-id": "msg_2"}, BODY),
        ({**headers, "webhook-timestamp": str(AT + 1)}, BODY),
    ):
        with pytest.raises(WebhookRefusedError, match="no signature fits"):
            verify([SECRET], changed, body, NOW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-id", ""),
        ("webhook-id", "msg_1, msg_1"),
        ("webhook-id", "msg_1.1"),
        ("webhook-id", "m\x00"),
        ("webhook-id", "\udce9"),
        ("webhook-id", "m" * 129),
        ("webhook-timestamp", "1e400"),
        ("webhook-timestamp", "NaN"),
        ("webhook-timestamp", ""),
        ("webhook-timestamp", "-1"),
        ("webhook-timestamp", f"{AT}, {AT}"),
        ("webhook-timestamp", f"{AT}.0"),
        ("webhook-timestamp", "9" * 5000),
        ("webhook-timestamp", "\u0661\u0662"),
        ("webhook-signature", ""),
        ("webhook-signature", "v1"),
        ("webhook-signature", "v1,"),
        ("webhook-signature", "v1,!!!!"),
        ("webhook-signature", "v1,A"),
        ("webhook-signature", "v1,\u00e9"),
        ("webhook-signature", "v1,AAAA, v1,AAAA"),
        ("webhook-signature", "v1,AAAA  v1,AAAA"),
        ("webhook-signature", " ".join(["v1,AAAA"] * 40)),
    ],
)
def test_wh5_a_malformed_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(WebhookRefusedError, match=f"header {name}"):
        verify([SECRET], {**signed(), name: value}, BODY, NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_wh5_a_missing_or_doubled_header_is_refused(name: str) -> None:
    headers = signed()
    with pytest.raises(WebhookRefusedError, match="doubled"):
        verify([SECRET], {**headers, name.upper(): headers[name]}, BODY, NOW)
    del headers[name]
    with pytest.raises(WebhookRefusedError, match="missing"):
        verify([SECRET], headers, BODY, NOW)


@pytest.mark.parametrize(("late_s", "problem"), [(301, "too old"), (-301, "from the future")])
def test_wh6_a_message_from_another_time_is_refused(late_s: int, problem: str) -> None:
    with pytest.raises(WebhookRefusedError, match=problem):
        verify([SECRET], signed(), BODY, NOW + timedelta(seconds=late_s))


@pytest.mark.parametrize("late_s", [300, -300])
def test_a_message_at_the_edge_of_the_window_is_taken(late_s: int) -> None:
    assert verify([SECRET], signed(), BODY, NOW + timedelta(seconds=late_s)) == "msg_1"


@pytest.mark.parametrize("text", ["whsec_", "whsec_AAAA", "whsec_!", "\u00e9", "x" * 500])
def test_a_secret_that_cannot_sign_is_a_mistake_of_ours(text: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        check_secret(Secret(text))
    assert text.removeprefix("whsec_") not in str(caught.value) or text == "whsec_"


def test_without_a_secret_nothing_is_taken() -> None:
    with pytest.raises(MisconfiguredError):
        verify([], signed(), BODY, NOW)


@pytest.mark.parametrize(("message_id", "at"), [("a.b", 1), ("", 1), ("a", -1), ("a", 10**12)])
def test_what_everybody_would_refuse_is_not_signed(message_id: str, at: int) -> None:
    with pytest.raises(InvalidValueError):
        sign(SECRET, message_id, at, BODY)


@given(
    headers=st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "Webhook-Id", "x"])
        | st.text(),
        st.text() | st.sampled_from(["msg_1", "1e400", str(AT), "v1,AAAA"]),
    ),
    body=st.binary(),
)
def test_wh5_anything_else_is_refused_in_one_way(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookRefusedError):
        verify([SECRET], headers, body, NOW)
