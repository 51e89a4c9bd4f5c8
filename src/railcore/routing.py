"""
Which rail, provider and account take a payment, and why.

``ConfigDrivenRouteResolver`` looks on three levels, from a mapping or a TOML file:

1. an *exact match* on tenant and payment option, optionally narrowed by currency and operation;
2. the *default of the payment option* (method key), whoever the tenant is;
3. the *default route*.

Configuration that is ambiguous or leads nowhere is refused when it is loaded, with its place named.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs
from typing_extensions import override

from railcore import _checks
from railcore.context import PaymentContext
from railcore.enums import (
    Idempotency,
    Lookup,
    Operation,
    PaymentRail,
    RouteMode,
    SettlementMode,
)
from railcore.errors import (
    InvalidValueError,
    MisconfiguredError,
    RouteNotFoundError,
    UnsupportedOperationError,
)
from railcore.money import Currency, Money

if TYPE_CHECKING:  # it costs more to import than this module
    from pathlib import Path


@attrs.frozen(kw_only=True)
class TimingBounds:
    """
    What a provider guarantees about time, in seconds; rules R2 to R4 stand on it.

    Attributes:
        send_deadline_s: ``D``: how long after the send mark the first byte may leave.
        latest_arrival_s: ``L``: how long after leaving a request may still arrive.
        read_lag_s: ``G``: how long the provider's reads may lag behind its writes.
        key_window_s: ``W``: how long the provider remembers an idempotency key; None means for
            ever.
        answer_timeout_s: How long an answer is waited for; a lease has to outlast it.
    """

    send_deadline_s: float = attrs.field(default=5.0, validator=_checks.seconds)
    latest_arrival_s: float = attrs.field(default=120.0, validator=_checks.seconds)
    read_lag_s: float = attrs.field(default=60.0, validator=_checks.seconds)
    key_window_s: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_checks.seconds)
    )
    answer_timeout_s: float = attrs.field(default=30.0, validator=_checks.seconds)

    def __attrs_post_init__(self) -> None:
        settled = self.send_deadline_s + self.latest_arrival_s
        if self.key_window_s is not None and self.key_window_s <= settled:
            wanted = f"more than D + L = {self.send_deadline_s:g} + {self.latest_arrival_s:g} s"
            raise InvalidValueError("key_window_s", wanted, f"{self.key_window_s:g} s")

    @property
    def silence_proves_after_s(self) -> float:
        """How long after the last send "not found" proves that nothing happened (rule R4)."""
        return self.send_deadline_s + self.latest_arrival_s + self.read_lag_s


_flag: Final = _checks.one_of(bool)


def _are_currencies(_: object, __: object, codes: frozenset[str] | None) -> None:
    for code in codes or ():
        Currency.of(code)


@attrs.frozen(kw_only=True)
class RouteCapabilities:
    """
    What a rail at a provider can do.

    Declared by the adapter, narrowed by configuration, never widened.

    Attributes:
        operations: What can be asked.
        currencies: ISO codes; None means any.
        supports_async: Whether it can answer "pending".
        settlement_mode: When success means money.
        partial_capture, multiple_capture, partial_refund, multiple_refund: What follow-ups may look
            like.
        idempotency: What makes a resend harmless; ``lookup``: how a lost answer is found again.
        lookup_is_authoritative: Whether "not found" can ever prove anything.
        most_decimals: The provider cannot express more decimal places; None means the currency's
            own.
        timing: D, L, G and W.
    """

    operations: frozenset[Operation] = attrs.field(
        default=frozenset({Operation.CHARGE}), validator=_checks.set_of(Operation)
    )
    currencies: frozenset[str] | None = attrs.field(
        default=None, validator=[_checks.set_of(str, optional=True), _are_currencies]
    )
    supports_async: bool = attrs.field(default=False, validator=_flag)
    settlement_mode: SettlementMode = attrs.field(
        default=SettlementMode.INSTANT, validator=_checks.one_of(SettlementMode)
    )
    partial_capture: bool = attrs.field(default=False, validator=_flag)
    multiple_capture: bool = attrs.field(default=False, validator=_flag)
    partial_refund: bool = attrs.field(default=False, validator=_flag)
    multiple_refund: bool = attrs.field(default=False, validator=_flag)
    idempotency: Idempotency = attrs.field(
        default=Idempotency.NONE, validator=_checks.one_of(Idempotency)
    )
    lookup: Lookup = attrs.field(default=Lookup.NONE, validator=_checks.one_of(Lookup))
    lookup_is_authoritative: bool = attrs.field(default=False, validator=_flag)
    most_decimals: int | None = attrs.field(
        default=None, validator=_checks.whole_number(0, most=4, optional=True)
    )
    timing: TimingBounds = attrs.field(
        default=TimingBounds(), validator=_checks.one_of(TimingBounds)
    )

    @property
    def supports_refund(self) -> bool:
        """Whether refunds can be asked."""
        return Operation.REFUND in self.operations

    def can_express(self, money: Money) -> bool:
        """Whether the provider's wire can carry this amount exactly."""
        if self.most_decimals is None or self.most_decimals >= money.currency.exponent:
            return True
        return not money.amount_minor % 10 ** (money.currency.exponent - self.most_decimals)


@attrs.frozen(kw_only=True)
class PaymentRoute:
    """
    A resolved route.

    Attributes:
        name: As configured.
        rail, provider: What is registered.
        account: One set of credentials at the provider; for the wallet, the house account that
            receives.
        mode: ``live`` or ``sandbox``.
        capabilities: What it can do.
    """

    name: str = attrs.field(validator=_checks.text(128))
    rail: PaymentRail = attrs.field(validator=_checks.one_of(PaymentRail))
    provider: str = attrs.field(validator=_checks.text(32))
    account: str = attrs.field(validator=_checks.text(64))
    mode: RouteMode = attrs.field(validator=_checks.one_of(RouteMode))
    capabilities: RouteCapabilities = attrs.field(
        default=RouteCapabilities(), validator=_checks.one_of(RouteCapabilities)
    )

    @override
    def __str__(self) -> str:
        return f"{self.name} ({self.rail}, {self.provider}/{self.account}, {self.mode})"

    def check(self, context: PaymentContext) -> None:
        """
        Check that this route can do what *context* asks.

        Raises:
            UnsupportedOperationError: It cannot; nothing was sent or stored.
        """
        can = self.capabilities
        if context.operation not in can.operations:
            raise UnsupportedOperationError(
                self.name, context.operation, ", ".join(sorted(can.operations))
            )
        code = context.money.currency.code
        if can.currencies is not None and code not in can.currencies:
            raise UnsupportedOperationError(
                self.name, f"currency {code}", ", ".join(sorted(can.currencies))
            )
        if not can.can_express(context.money):
            raise UnsupportedOperationError(
                self.name, f"{context.money}", f"{can.most_decimals} decimal places"
            )


def narrowest(
    declared: RouteCapabilities, configured: Sequence[RouteCapabilities]
) -> RouteCapabilities:
    """
    Return what follow-ups may be asked for: what is *declared* and allowed by any *configured*.

    Currencies are as declared: they are narrowed for new payments.
    """
    allowed = frozenset[Operation]().union(*(can.operations for can in configured))
    parts: dict[str, Any] = {
        name: getattr(declared, name) and any(getattr(can, name) for can in configured)
        for name in _PARTS
    }
    return attrs.evolve(declared, operations=declared.operations & allowed, **parts)


@attrs.frozen
class Resolution:
    """A route and why it was taken: each candidate that was looked at, in order."""

    route: PaymentRoute = attrs.field(validator=_checks.one_of(PaymentRoute))
    trace: tuple[str, ...] = attrs.field(validator=_checks.one_of(tuple))


Offered = Mapping[tuple[PaymentRail, str], RouteCapabilities]
"""
What is registered: (rail, provider) and what the adapter declares.

``PaymentRailRegistry.offered`` gives it.
"""

_MATCH_FIELDS: Final = ("tenant_id", "payment_option_key", "currency", "operation")
_PARTS: Final = ("partial_capture", "multiple_capture", "partial_refund", "multiple_refund")
_NARROWED: Final = ("operations", "currencies", *_PARTS)
_REMEMBERED: Final = 4096


@attrs.frozen
class _Exact:
    match: Mapping[str, str] = attrs.field(hash=False)
    route: PaymentRoute
    place: str

    def takes(self, asked: Mapping[str, str]) -> bool:
        return all(asked[name] == value for name, value in self.match.items())

    def overlaps(self, other: "_Exact") -> bool:
        return all(other.match.get(name, value) == value for name, value in self.match.items())

    def refines(self, other: "_Exact") -> bool:
        return other.match.items() < self.match.items()


class ConfigDrivenRouteResolver:
    """
    Finds a route in configuration.

    Exact match first, then the option's default, then the default route.

    >>> from railcore.enums import PaymentRail
    >>> resolver = ConfigDrivenRouteResolver.from_mapping(
    ...     {
    ...         "routes": {
    ...             "cash": {
    ...                 "rail": "manual_settlement",
    ...                 "provider": "manual",
    ...                 "account": "till",
    ...                 "mode": "live",
    ...             }
    ...         },
    ...         "default_route": "cash",
    ...     },
    ...     offered={(PaymentRail.MANUAL_SETTLEMENT, "manual"): RouteCapabilities()},
    ... )
    """

    def __init__(
        self,
        exact: Sequence[_Exact],
        defaults: Mapping[str, PaymentRoute],
        default_route: PaymentRoute | None,
    ) -> None:
        self._exact = sorted(exact, key=lambda entry: -len(entry.match))
        self._defaults = dict(defaults)
        self._default_route = default_route
        self._found = lru_cache(maxsize=_REMEMBERED)(self._find)
        last = [] if default_route is None else [default_route]
        every = [*(entry.route for entry in self._exact), *self._defaults.values(), *last]
        self.known_routes: Sequence[PaymentRoute] = tuple(dict.fromkeys(every))

    @classmethod
    def from_mapping(
        cls, config: Mapping[str, object], *, offered: Offered
    ) -> "ConfigDrivenRouteResolver":
        """
        Return a resolver for *config*.

        Args:
            config: ``routes`` (name to route), ``exact`` (a list of matches with a ``route``),
                ``defaults`` (payment option to route name) and ``default_route`` (a route name);
                see the how-to on routes.
            offered: What is registered; a route to anything else is refused.

        Raises:
            MisconfiguredError: Ambiguous, dangling or unknown entries; the place is named.
        """
        _only(config, "configuration", ("routes", "exact", "defaults", "default_route"))
        routes = {
            name: _route(name, _table(entry, f"routes.{name}"), offered)
            for name, entry in _table(config.get("routes", {}), "routes").items()
        }
        exact = [
            _exact(entry, f"exact[{index}]", routes)
            for index, entry in enumerate(_list(config.get("exact", []), "exact"))
        ]
        _refuse_ambiguity(exact)
        defaults = {
            _asked("payment_option_key", key, f"defaults.{key}"): _named(
                name, f"defaults.{key}", routes
            )
            for key, name in _table(config.get("defaults", {}), "defaults").items()
        }
        last = config.get("default_route")
        default_route = None if last is None else _named(last, "default_route", routes)
        _refuse_unused(
            routes, [*(entry.route for entry in exact), *defaults.values(), default_route]
        )
        return cls(exact, defaults, default_route)

    @classmethod
    def from_toml(cls, path: "Path", *, offered: Offered) -> "ConfigDrivenRouteResolver":
        """
        Return a resolver for the TOML file at *path*.

        Raises:
            MisconfiguredError: The file is no TOML, or as for ``from_mapping``.
        """
        import tomllib  # noqa: PLC0415 - most hosts load no file, and all import this module

        try:
            config = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MisconfiguredError(
                str(path), f"not a TOML file: {error}", "Correct the syntax"
            ) from error
        return cls.from_mapping(config, offered=offered)

    def resolve(self, context: PaymentContext, /) -> Resolution:
        """
        Return the route for *context* and why.

        Raises:
            RouteNotFoundError: No level has one; the trace is on the error.
        """
        return self._found(
            context.tenant_id,
            context.payment_option_key,
            context.money.currency.code,
            context.operation,
        )

    def _find(self, *asked: str) -> Resolution:
        trace = list[str]()
        wanted: dict[str, str] = dict(zip(_MATCH_FIELDS, asked, strict=True))
        for label, route in self._candidates(wanted):
            if route is not None:
                trace.append(f"{label}: taken, {route}")
                return Resolution(route, tuple(trace))
            trace.append(f"{label}: none")
        raise RouteNotFoundError(wanted["tenant_id"], wanted["payment_option_key"], tuple(trace))

    def _candidates(self, asked: Mapping[str, str]) -> Iterator[tuple[str, PaymentRoute | None]]:
        found = next((entry for entry in self._exact if entry.takes(asked)), None)
        if found is None:
            yield ("exact match", None)
        else:
            yield (f"exact match {found.place}", found.route)
        key = asked["payment_option_key"]
        yield (f"default of option {key}", self._defaults.get(key))
        yield ("default route", self._default_route)


def _route(name: str, entry: Mapping[str, object], offered: Offered) -> PaymentRoute:
    place = f"routes.{name}"
    _only(entry, place, ("rail", "provider", "account", "mode", *_NARROWED))
    rail = _member(PaymentRail, entry.get("rail"), f"{place}.rail")
    provider = _text(entry.get("provider"), f"{place}.provider")
    capabilities = offered.get((rail, provider))
    if capabilities is None:
        known = ", ".join(sorted(f"{one}/{two}" for one, two in offered)) or "none"
        raise MisconfiguredError(
            place,
            f"{rail}/{provider} is not registered (registered: {known})",
            "Register the rail or correct the route",
        )
    try:
        return PaymentRoute(
            name=name,
            rail=rail,
            provider=provider,
            account=_text(entry.get("account"), f"{place}.account"),
            mode=_member(RouteMode, entry.get("mode"), f"{place}.mode"),
            capabilities=_narrowed(capabilities, entry, place),
        )
    except InvalidValueError as error:
        raise MisconfiguredError(place, str(error), "Correct the value") from error


def _narrowed(
    declared: RouteCapabilities, entry: Mapping[str, object], place: str
) -> RouteCapabilities:
    operations, currencies = declared.operations, declared.currencies
    if "operations" in entry:
        wanted = frozenset(
            _member(Operation, one, f"{place}.operations")
            for one in _list(entry["operations"], f"{place}.operations")
        )
        _refuse_wider(wanted, operations, f"{place}.operations")
        operations = wanted
    if "currencies" in entry:
        codes = frozenset(
            _currency(one, f"{place}.currencies")
            for one in _list(entry["currencies"], f"{place}.currencies")
        )
        _refuse_wider(codes, currencies, f"{place}.currencies")
        currencies = codes
    parts: dict[str, Any] = {name: _part(declared, entry, name, place) for name in _PARTS}
    return attrs.evolve(declared, operations=operations, currencies=currencies, **parts)


def _part(declared: RouteCapabilities, entry: Mapping[str, object], name: str, place: str) -> bool:
    is_offered: bool = getattr(declared, name)
    wanted = entry.get(name, is_offered)
    if not isinstance(wanted, bool):
        problem = f"wanted true or false, found {_checks.shape(wanted)}"
        raise MisconfiguredError(f"{place}.{name}", problem, "Write it without quotes")
    if wanted and not is_offered:
        _refuse_wider(frozenset({name}), frozenset(), f"{place}.{name}")
    return wanted


def _refuse_wider(wanted: frozenset[str], declared: frozenset[str] | None, place: str) -> None:
    more = sorted(wanted - declared) if declared is not None else []
    if more or not wanted:
        problem = f"{', '.join(more)} is not offered by the rail" if more else "is empty"
        raise MisconfiguredError(
            place, problem, "Configuration can narrow what a rail offers, not widen it"
        )


def _exact(entry: object, place: str, routes: Mapping[str, PaymentRoute]) -> _Exact:
    table = _table(entry, place)
    _only(table, place, (*_MATCH_FIELDS, "route"))
    match = {
        name: _asked(name, table[name], f"{place}.{name}")
        for name in _MATCH_FIELDS
        if name in table
    }
    for name in ("tenant_id", "payment_option_key"):
        if name not in match:
            raise MisconfiguredError(
                place, f"{name} is missing", "An exact match names tenant and payment option"
            )
    route = _named(table.get("route"), f"{place}.route", routes)
    _refuse_impossible(match, route.capabilities, place)
    return _Exact(match, route, place)


def _refuse_impossible(match: Mapping[str, str], can: RouteCapabilities, place: str) -> None:
    wanted = {_currency(match["currency"], f"{place}.currency")} if "currency" in match else set()
    if can.currencies is not None and wanted - can.currencies:
        problem = f"the route does not take {match['currency']}"
        raise MisconfiguredError(f"{place}.currency", problem, "Name a route that does")
    if "operation" in match:
        operation = _member(Operation, match["operation"], f"{place}.operation")
        _refuse_unrouted(operation, can, f"{place}.operation")


def _refuse_unrouted(operation: Operation, can: RouteCapabilities, place: str) -> None:
    if operation.follows_a_parent:
        problem = f"a {operation} goes where its parent went and asks for no route"
        raise MisconfiguredError(place, problem, "Match charge or authorize")
    if operation not in can.operations:
        raise MisconfiguredError(
            place, f"the route does not offer {operation}", "Name a route that does"
        )


def _refuse_ambiguity(entries: Sequence[_Exact]) -> None:
    for index, one in enumerate(entries):
        for other in entries[index + 1 :]:
            if one.overlaps(other) and not one.refines(other) and not other.refines(one):
                both = f"{one.place} and {other.place}"
                problem = f"{both} both take some payment, and neither is the narrower one"
                raise MisconfiguredError(other.place, problem, "Remove one, or narrow one of them")


def _refuse_unused(routes: Mapping[str, PaymentRoute], used: Sequence[PaymentRoute | None]) -> None:
    names = {route.name for route in used if route is not None}
    for name in routes:
        if name not in names:
            raise MisconfiguredError(
                f"routes.{name}", "nothing leads to this route", "Use it or remove it"
            )


def _named(name: object, place: str, routes: Mapping[str, PaymentRoute]) -> PaymentRoute:
    route = routes.get(name) if isinstance(name, str) else None
    if route is None:
        known = ", ".join(sorted(routes)) or "none"
        raise MisconfiguredError(
            place, f"names no route: {name!r} (routes: {known})", "Name a configured route"
        )
    return route


def _only(table: Mapping[str, object], place: str, allowed: Sequence[str]) -> None:
    for name in table:
        if name not in allowed:
            raise MisconfiguredError(
                f"{place}.{name}", "is not a setting", f"Allowed: {', '.join(allowed)}"
            )


def _table(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise MisconfiguredError(
            place, f"wanted a table, found {_checks.shape(value)}", "Write it as a table"
        )
    return cast("Mapping[str, object]", value)


def _list(value: object, place: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise MisconfiguredError(
            place, f"wanted a list, found {_checks.shape(value)}", "Write it as a list"
        )
    return cast("Sequence[object]", value)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise MisconfiguredError(
            place, f"wanted a text, found {_checks.shape(value)}", "Fill it in"
        )
    return value


def _asked(name: str, value: object, place: str) -> str:
    """Return *value* where a context could ever ask for it."""
    text = _text(value, place)
    if not text.isascii() or not text.isprintable() or " " in text:
        problem = f"no {name} is written like this: {_checks.shape(value)}"
        raise MisconfiguredError(place, problem, "Use visible ASCII characters without blanks")
    return text


Member = TypeVar("Member", PaymentRail, RouteMode, Operation)


def _member(kind: type[Member], value: object, place: str) -> Member:
    try:
        return kind(cast("str", value))
    except ValueError:
        known = ", ".join(one.value for one in kind)
        raise MisconfiguredError(
            place, f"wanted one of {known}, found {value!r}", "Correct the value"
        ) from None


def _currency(value: object, place: str) -> str:
    try:
        return Currency.of(cast("str", value)).code
    except InvalidValueError as error:
        raise MisconfiguredError(place, str(error), "Correct the code") from error
