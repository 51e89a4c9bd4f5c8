import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from railcore.context import PaymentContext
from railcore.enums import Operation, PaymentRail, RouteMode, SettlementMode
from railcore.errors import (
    InvalidValueError,
    MisconfiguredError,
    RouteNotFoundError,
    UnknownProviderError,
    UnsupportedOperationError,
)
from railcore.money import JPY, KWD, SAR, USD, Currency, Money
from railcore.registry import PaymentRailRegistry
from railcore.routing import (
    ConfigDrivenRouteResolver,
    PaymentRoute,
    RouteCapabilities,
    TimingBounds,
)
from tests.core.made import context

OFFERED = {
    (PaymentRail.CARD_PSP, "stub"): RouteCapabilities(
        operations=frozenset({Operation.CHARGE, Operation.AUTHORIZE, Operation.REFUND}),
        currencies=frozenset({"SAR", "AED", "USD"}),
    ),
    (PaymentRail.MANUAL_SETTLEMENT, "manual"): RouteCapabilities(
        settlement_mode=SettlementMode.MANUAL
    ),
}
CARDS = {"rail": "card_psp", "provider": "stub", "account": "main", "mode": "sandbox"}
CASH = {"rail": "manual_settlement", "provider": "manual", "account": "till", "mode": "live"}
THREE_LEVELS: dict[str, Any] = {
    "routes": {"cards": CARDS, "acme_cards": {**CARDS, "account": "acme"}, "cash": CASH},
    "exact": [
        {"tenant_id": "acme", "payment_option_key": "card.mada", "route": "acme_cards"},
    ],
    "defaults": {"card.mada": "cards"},
    "default_route": "cash",
}
TOML = """
default_route = "cash"

[routes.cards]
rail = "card_psp"
provider = "stub"
account = "main"
mode = "sandbox"

[routes.acme_cards]
rail = "card_psp"
provider = "stub"
account = "acme"
mode = "sandbox"

[routes.cash]
rail = "manual_settlement"
provider = "manual"
account = "till"
mode = "live"

[[exact]]
tenant_id = "acme"
payment_option_key = "card.mada"
route = "acme_cards"

[defaults]
"card.mada" = "cards"
"""


def load(config: Any) -> ConfigDrivenRouteResolver:
    return ConfigDrivenRouteResolver.from_mapping(config, offered=OFFERED)


def route_of(resolver: ConfigDrivenRouteResolver, **changes: Any) -> str:
    return resolver.resolve(context(**changes)).route.name


def changed(**changes: Any) -> dict[str, Any]:
    return {**THREE_LEVELS, **changes}


def refused(config: Any) -> MisconfiguredError:
    with pytest.raises(MisconfiguredError) as error:
        load(config)
    return error.value


def test_the_mapping_above_is_the_toml_above() -> None:
    assert tomllib.loads(TOML) == THREE_LEVELS


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "acme_cards"),
        ({"tenant_id": "other"}, "cards"),
        ({"payment_option_key": "cash"}, "cash"),
        ({"tenant_id": "other", "payment_option_key": "cash"}, "cash"),
        ({"tenant_id": "ACME"}, "cards"),
    ],
)
def test_exact_match_goes_before_the_options_default_before_the_default_route(
    changes: dict[str, Any], name: str
) -> None:
    assert route_of(load(THREE_LEVELS), **changes) == name


def test_a_toml_file_reads_like_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(TOML)
    resolver = ConfigDrivenRouteResolver.from_toml(file, offered=OFFERED)

    for changes in ({}, {"tenant_id": "other"}, {"payment_option_key": "cash"}):
        asked = context(**changes)
        assert resolver.resolve(asked) == load(THREE_LEVELS).resolve(asked)


@pytest.mark.parametrize("content", [b"routes = [", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "routes.toml"
    file.write_bytes(content)

    with pytest.raises(MisconfiguredError, match=r"routes\.toml: not a TOML file"):
        ConfigDrivenRouteResolver.from_toml(file, offered=OFFERED)


def test_the_trace_tells_each_candidate_in_order() -> None:
    resolution = load(THREE_LEVELS).resolve(context(payment_option_key="cash"))

    assert resolution.trace == (
        "exact match: none",
        "default of option cash: none",
        "default route: taken, cash (manual_settlement, manual/till, live)",
    )


def test_the_trace_names_the_entry_that_matched() -> None:
    resolution = load(THREE_LEVELS).resolve(context())

    assert resolution.trace == (
        "exact match exact[0]: taken, acme_cards (card_psp, stub/acme, sandbox)",
    )


def test_without_any_candidate_the_error_has_the_trace() -> None:
    with pytest.raises(RouteNotFoundError) as error:
        load({}).resolve(context())

    assert error.value.trace == (
        "exact match: none",
        "default of option card.mada: none",
        "default route: none",
    )


def exact(route: str, **match: str) -> dict[str, str]:
    return {"tenant_id": "acme", "payment_option_key": "card.mada", "route": route, **match}


def test_the_narrowest_exact_match_wins_wherever_it_stands() -> None:
    entries = [
        exact("cash"),
        exact("cards", currency="SAR"),
        exact("acme_cards", currency="SAR", operation="authorize"),
    ]
    for order in (entries, entries[::-1]):
        resolver = load(changed(exact=order))

        assert route_of(resolver) == "cards"
        assert route_of(resolver, operation=Operation.AUTHORIZE) == "acme_cards"
        assert route_of(resolver, money=Money(1, USD)) == "cash"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (exact("cards"), exact("cash")),
        (exact("cards"), exact("cards")),
        (exact("cards", currency="SAR"), exact("cash", currency="SAR")),
        (exact("cards", currency="SAR"), exact("cash", operation="charge")),
    ],
)
def test_two_entries_that_take_the_same_payment_are_refused(
    one: dict[str, str], other: dict[str, str]
) -> None:
    error = refused(changed(exact=[one, other, exact("acme_cards", tenant_id="third")]))

    assert error.place == "exact[1]"
    assert "exact[0] and exact[1]" in str(error)


@pytest.mark.parametrize(
    "other",
    [
        exact("cash", currency="USD"),
        exact("cash", tenant_id="other", currency="SAR"),
        exact("cash", payment_option_key="cash", currency="SAR"),
    ],
)
def test_entries_that_never_meet_are_not_ambiguous(other: dict[str, str]) -> None:
    load(changed(exact=[exact("acme_cards", currency="SAR"), other]))


without = THREE_LEVELS["routes"]


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (changed(default_route="nowhere"), "default_route"),
        (changed(default_route=7), "default_route"),
        (changed(defaults={"card.mada": "nowhere"}), "defaults.card.mada"),
        (changed(defaults={"card.mada": ["cards"]}), "defaults.card.mada"),
        (changed(exact=[exact("nowhere")]), "exact[0].route"),
        (changed(exact=[{"tenant_id": "acme", "route": "cards"}]), "exact[0]"),
        (changed(exact=[{"payment_option_key": "card.mada", "route": "cards"}]), "exact[0]"),
        (changed(exact=[exact("cards", tenant_id="")]), "exact[0].tenant_id"),
        (changed(exact=[exact("cards", tenant_id="a b")]), "exact[0].tenant_id"),
        (changed(exact=[exact("cards", payment_option_key="ä")]), "exact[0].payment_option_key"),
        (changed(exact=[exact("cards", currency="sar")]), "exact[0].currency"),
        (changed(exact=[exact("cards", currency="JPY")]), "exact[0].currency"),
        (changed(exact=[exact("cards", operation="pay")]), "exact[0].operation"),
        (changed(exact=[exact("cards", operation="refund")]), "exact[0].operation"),
        (changed(exact=[exact("cash", operation="authorize")]), "exact[0].operation"),
        (changed(exact=[exact("cards", country="SA")]), "exact[0].country"),
        (changed(exact=[exact("cards", tenant_id=7)]), "exact[0].tenant_id"),  # type: ignore[arg-type]
        (changed(exact=["cards"]), "exact[0]"),
        (changed(exact="cards"), "exact"),
        (changed(exact={"route": "cards"}), "exact"),
        (changed(defaults="cards"), "defaults"),
        (changed(defaults={"a b": "cards"}), "defaults.a b"),
        (changed(routes="cards"), "routes"),
        (changed(routes={**without, "spare": CARDS}), "routes.spare"),
        (changed(routes={**without, "cards": "stub"}), "routes.cards"),
        (changed(routes={**without, "cards": {**CARDS, "speed": 1}}), "routes.cards.speed"),
        (changed(routes={**without, "cards": {**CARDS, "rail": "pigeon"}}), "routes.cards.rail"),
        (
            changed(routes={**without, "cards": {**CARDS, "rail": ["card_psp"]}}),
            "routes.cards.rail",
        ),
        (changed(routes={**without, "cards": {**CARDS, "mode": "test"}}), "routes.cards.mode"),
        (changed(routes={**without, "cards": {**CARDS, "provider": "acme"}}), "routes.cards"),
        (changed(routes={**without, "cards": {**CARDS, "account": ""}}), "routes.cards.account"),
        (changed(routes={**without, "cards": {**CARDS, "account": "a b"}}), "routes.cards"),
        (changed(routes={**without, "cards": {**CARDS, "account": 7}}), "routes.cards.account"),
        (
            changed(routes={**without, "cards": {**CARDS, "operations": "charge"}}),
            "routes.cards.operations",
        ),
        (
            changed(routes={**without, "cards": {**CARDS, "operations": ["pay"]}}),
            "routes.cards.operations",
        ),
        (
            changed(routes={**without, "cards": {**CARDS, "currencies": "SAR"}}),
            "routes.cards.currencies",
        ),
        (
            changed(routes={**without, "cards": {**CARDS, "currencies": ["SAR", "sar"]}}),
            "routes.cards.currencies",
        ),
        (changed(fallback="cards"), "configuration.fallback"),
        ({"routes": {"cards": CARDS}}, "routes.cards"),
    ],
)
def test_a_mistake_is_refused_with_its_place(config: Any, place: str) -> None:
    assert refused(config).place == place


@pytest.mark.parametrize("place", ["rail", "provider", "account", "mode"])
def test_a_route_says_everything(place: str) -> None:
    incomplete = {name: value for name, value in CARDS.items() if name != place}

    assert refused({"routes": {"cards": incomplete}, "default_route": "cards"}).place == (
        f"routes.cards.{place}"
    )


def test_an_unregistered_rail_is_refused_with_what_is_registered() -> None:
    error = refused({"routes": {"cards": {**CARDS, "provider": "acme"}}, "default_route": "cards"})

    assert "card_psp/stub, manual_settlement/manual" in str(error)


def narrowed(**settings: Any) -> ConfigDrivenRouteResolver:
    return load({"routes": {"cards": {**CARDS, **settings}}, "default_route": "cards"})


def test_configuration_narrows_what_a_rail_offers() -> None:
    route = narrowed(operations=["charge"], currencies=["SAR"]).resolve(context()).route

    assert route.capabilities.operations == {Operation.CHARGE}
    assert route.capabilities.currencies == frozenset({"SAR"})


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"operations": ["charge", "void"]}, "routes.cards.operations"),
        ({"operations": []}, "routes.cards.operations"),
        ({"currencies": ["SAR", "JPY"]}, "routes.cards.currencies"),
        ({"currencies": []}, "routes.cards.currencies"),
    ],
)
def test_configuration_never_widens_what_a_rail_offers(
    settings: dict[str, Any], place: str
) -> None:
    with pytest.raises(MisconfiguredError) as error:
        narrowed(**settings)

    assert error.value.place == place


def test_a_rail_without_a_list_of_currencies_can_be_narrowed_to_any() -> None:
    config = {"routes": {"cash": {**CASH, "currencies": ["JPY"]}}, "default_route": "cash"}

    assert load(config).resolve(context()).route.capabilities.currencies == frozenset({"JPY"})


route = PaymentRoute(
    name="cards",
    rail=PaymentRail.CARD_PSP,
    provider="stub",
    account="main",
    mode=RouteMode.SANDBOX,
    capabilities=RouteCapabilities(currencies=frozenset({"SAR", "KWD", "JPY"}), most_decimals=2),
)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (context(operation=Operation.AUTHORIZE), "authorize"),
        (context(money=Money(1, USD)), "currency USD"),
        (context(money=Money(1251, KWD)), "2 decimal places"),
    ],
)
def test_a_route_refuses_what_it_cannot_do(asked: PaymentContext, problem: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=problem):
        route.check(asked)


@pytest.mark.parametrize("money", [Money(1250, KWD), Money(1, JPY), Money(1251, SAR)])
def test_an_amount_that_the_wire_can_carry_passes(money: Money) -> None:
    route.check(context(money=money))


@given(st.integers(1, 10**9), st.sampled_from(["JPY", "SAR", "KWD", "CLF"]), st.integers(0, 4))
def test_an_amount_is_expressible_when_no_digit_is_lost(
    amount: int, code: str, places: int
) -> None:
    money = Money(amount, Currency.of(code))
    exact = round(money.to_major(), places) == money.to_major()

    assert RouteCapabilities(most_decimals=places).can_express(money) is exact


@pytest.mark.parametrize(
    "changes",
    [
        {"operations": ["charge"]},
        {"operations": frozenset({"charge"})},
        {"operations": None},
        {"currencies": "SAR"},
        {"currencies": frozenset({"sar"})},
        {"currencies": ["SAR"]},
        {"supports_async": 1},
        {"settlement_mode": "instant"},
        {"partial_refund": "yes"},
        {"idempotency": "key"},
        {"lookup": None},
        {"lookup_is_authoritative": "no"},
        {"most_decimals": -1},
        {"most_decimals": True},
        {"most_decimals": 1.5},
        {"timing": None},
    ],
    ids=str,
)
def test_capabilities_are_what_they_say(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        RouteCapabilities(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": None},
        {"rail": "card_psp"},
        {"provider": ""},
        {"provider": "a b"},
        {"account": "x" * 65},
        {"mode": "live"},
        {"capabilities": {}},
    ],
    ids=str,
)
def test_a_route_is_what_it_says(changes: dict[str, Any]) -> None:
    values = {
        "name": "cards",
        "rail": PaymentRail.CARD_PSP,
        "provider": "stub",
        "account": "main",
        "mode": RouteMode.LIVE,
    }
    with pytest.raises(InvalidValueError):
        PaymentRoute(**{**values, **changes})


@pytest.mark.parametrize(
    ("window", "is_refused"), [(124.999, True), (125, True), (125.001, False), (None, False)]
)
def test_cf2_a_key_window_outlasts_the_latest_arrival(
    window: float | None, is_refused: bool
) -> None:
    bounds: dict[str, Any] = {"send_deadline_s": 5, "latest_arrival_s": 120, "key_window_s": window}
    if is_refused:
        with pytest.raises(InvalidValueError, match=r"more than D \+ L = 5 \+ 120 s"):
            TimingBounds(**bounds)
    else:
        TimingBounds(**bounds)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "5", None])
@pytest.mark.parametrize(
    "bound", ["send_deadline_s", "latest_arrival_s", "read_lag_s", "answer_timeout_s"]
)
def test_a_bound_is_a_finite_number_of_seconds(bound: str, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=bound):
        TimingBounds(**{bound: value})


class NoRail:
    capabilities = RouteCapabilities()


def test_a_rail_is_registered_once() -> None:
    registry = PaymentRailRegistry[Any]()
    registry.register(PaymentRail.CARD_PSP, "stub", NoRail())

    with pytest.raises(MisconfiguredError, match="registered already"):
        registry.register(PaymentRail.CARD_PSP, "stub", NoRail())


def test_what_is_missing_is_named_with_what_was_offered() -> None:
    registry = PaymentRailRegistry[Any]()
    registry.register(PaymentRail.CARD_PSP, "stub", NoRail())

    with pytest.raises(UnknownProviderError, match="card_psp/acme; registered are: card_psp/stub"):
        registry.find(PaymentRail.CARD_PSP, "acme")


def test_the_registry_offers_what_routes_are_checked_against() -> None:
    registry = PaymentRailRegistry[Any]()
    registry.register(PaymentRail.CARD_PSP, "stub", NoRail())

    assert registry.offered == {(PaymentRail.CARD_PSP, "stub"): NoRail.capabilities}
