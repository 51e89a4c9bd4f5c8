"""
Brokers through FastStream: NATS JetStream, Kafka, RabbitMQ and Redis Streams.

A relay forgets an event once the sink has returned, so returning must mean that the broker has it
on disk. Whether it does is a matter of settings, and every broker has ones with which it does not.
So the sink makes the connection itself, with the settings that it needs; one that turns them off is
refused, and what only the server knows is asked when the sink is opened.

==============  ==================================================================================
NATS JetStream  awaits the acknowledgement of the stream, which has to keep files; the event's id
                is the ``Nats-Msg-Id``, so that the server drops what comes again soon
Kafka           ``acks=all``, idempotent producer, the payment as key
RabbitMQ        publisher confirms, mandatory, persistent messages
Redis Streams   ``XADD`` without ``MAXLEN``; append-only file, no eviction. Only as durable as the
                server's ``appendfsync``
==============  ==================================================================================

A message is the event's envelope (``railcore.envelope``), byte for byte. Source: FastStream 0.7.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, Final, Self

import attrs

from railcore.envelope import CONTENT_TYPE, SOURCE, partition_key, structured
from railcore.errors import DeliveryError, MisconfiguredError
from railcore.events import JournalEvent, bucket_of

TIMEOUT_S: Final = 10.0
"""How long a broker may take for one event: well within half a relay's lease."""

LEAST_WINDOW_S: Final = 60.0
"""How long a JetStream has to remember ids: twice a relay's lease."""

Publish = Callable[[JournalEvent, bytes], Awaitable[object]]
Verify = Callable[[Any], Awaitable[None]]


@attrs.frozen
class _Link:
    """
    One broker: how to publish to it, and what to ask it first.

    Attributes:
        broker: FastStream's.
        publish: Returns when the broker has the message.
        verify: Given the broker's client, raises when the server would lose messages.
        poison: Which exceptions, by name, mean that this message can never be taken.
    """

    broker: Any  # FastStream's brokers have no type in common that is public
    publish: Publish
    verify: Verify
    poison: frozenset[str] = frozenset()


class FastStreamSink:
    """
    Publishes events to a broker, and returns when the broker has them. Asynchronous only.

    Make one with ``nats``, ``kafka``, ``rabbit`` or ``redis``; open it with ``async with``, or with
    ``open`` and ``aclose``. Several deliveries may be under way at a time.
    """

    def __init__(self, link: _Link, *, source: str, timeout_s: float) -> None:
        self._link = link
        self._source = source
        self._timeout_s = timeout_s

    @classmethod
    def nats(
        cls,
        servers: str | list[str],
        stream: str,
        subject: str,
        *,
        least_window_s: float = LEAST_WINDOW_S,
        source: str = SOURCE,
        timeout_s: float = TIMEOUT_S,
        **settings: Any,
    ) -> Self:
        """
        Return a sink to a stream of NATS JetStream, which the host has made.

        Args:
            servers: Addresses.
            stream: Has to keep files, to acknowledge, and to remember ids for *least_window_s*.
            subject: One of the stream's, without wildcards.
            least_window_s: The least ``duplicate_window`` that will do.
            source: Names the host to consumers: a URI reference.
            timeout_s: How long the acknowledgement is waited for.
            settings: Any other of FastStream's ``NatsBroker``.

        Raises:
            MisconfiguredError: There is no stream or no plain subject.
        """
        if not stream or not subject or any(one in subject for one in "*> \t\r\n"):
            raise MisconfiguredError(
                "NATS", "no stream, or no plain subject", "Name both, the subject without wildcards"
            )
        broker = _module("nats").NatsBroker(servers, **{"logger": None, **settings})

        async def publish(event: JournalEvent, body: bytes) -> None:
            headers = {"Nats-Msg-Id": str(event.event_id), "content-type": CONTENT_TYPE}
            receipt = await broker.publish(
                body,
                subject,
                headers=headers,
                correlation_id=str(event.event_id),
                stream=stream,
                timeout=timeout_s,
            )
            if receipt is None or receipt.stream != stream or not receipt.seq:
                raise DeliveryError("NATS acknowledged nothing")

        async def verify(client: Any) -> None:
            found = (await client.jetstream().stream_info(stream)).config
            for is_wrong, problem, remedy in (
                (str(found.storage) != "file", "keeps messages in memory", "storage=file"),
                (bool(found.no_ack), "acknowledges nothing", "no_ack=false"),
                (
                    (found.duplicate_window or 0) < least_window_s,
                    f"remembers ids for less than {least_window_s:g} s",
                    "a longer duplicate_window",
                ),
            ):
                _refuse_if(is_wrong, f"JetStream {stream}", problem, f"Make it with {remedy}")

        poison = frozenset({"MaxPayloadError"})
        return cls(_Link(broker, publish, verify, poison), source=source, timeout_s=timeout_s)

    @classmethod
    def kafka(
        cls,
        servers: str | list[str],
        topic: str,
        *,
        source: str = SOURCE,
        timeout_s: float = TIMEOUT_S,
        **settings: Any,
    ) -> Self:
        """
        Return a sink to a topic of Kafka, over FastStream's Confluent client (librdkafka).

        Give the topic a replication factor of 3 and ``min.insync.replicas`` of 2: no client can see
        to that.

        Args:
            servers: Addresses.
            topic: Events of a payment go to one partition of it.
            source: Names the host to consumers: a URI reference.
            timeout_s: How long the acknowledgement is waited for.
            settings: Any other of FastStream's confluent ``KafkaBroker``.

        Raises:
            MisconfiguredError: A setting turns off ``acks=all`` or the idempotent producer.
        """
        own = {"acks": "all", "enable_idempotence": True, "allow_auto_create_topics": False}
        config = {"delivery.timeout.ms": int(timeout_s * 1000), **settings.pop("config", {})}
        given = {"logger": None, **own, **settings}
        _check_kafka(given, config)
        broker = _module("confluent").KafkaBroker(servers, config=config, **given)

        async def publish(event: JournalEvent, body: bytes) -> None:
            receipt = await broker.publish(
                body,
                topic,
                key=partition_key(event).encode(),
                headers={"content-type": CONTENT_TYPE, "id": str(event.event_id)},
                correlation_id=str(event.event_id),
                no_confirm=False,
            )
            if receipt is None or receipt.offset() is None:
                raise DeliveryError("Kafka acknowledged nothing")

        poison = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_RECORD"})
        return cls(_Link(broker, publish, _nothing, poison), source=source, timeout_s=timeout_s)

    @classmethod
    def rabbit(
        cls,
        url: str,
        *,
        exchange: str = "",
        routing_key: str | None = None,
        source: str = SOURCE,
        timeout_s: float = TIMEOUT_S,
        **settings: Any,
    ) -> Self:
        """
        Return a sink to RabbitMQ.

        Declare the exchange durable and its queues as quorum queues, each with a single active
        consumer: a message is as durable as the queues that it reaches. One that reaches none is
        refused.

        Args:
            url: Address.
            exchange: Its name; the default exchange when empty.
            routing_key: The same for every event: the queue's name at the default exchange. None
                means the payment's bucket, ``0`` to ``63``, for a consistent-hash exchange.
            source: Names the host to consumers: a URI reference.
            timeout_s: How long the confirmation is waited for.
            settings: Any other of FastStream's ``RabbitBroker``.

        Raises:
            MisconfiguredError: A setting turns off confirms or the return of what reaches no queue,
                or the default exchange is given no queue.
        """
        rabbit = _module("rabbit")
        _refuse_if(
            not exchange and routing_key is None,
            "RabbitMQ",
            "no queue at the default exchange",
            "Give routing_key the queue's name",
        )
        channel = settings.pop("default_channel", None)
        if channel is None:
            channel = rabbit.Channel(publisher_confirms=True, on_return_raises=True)
        off = not (channel.publisher_confirms and channel.on_return_raises)
        _refuse_if(
            off,
            "RabbitMQ default_channel",
            "publisher confirms or returns are off",
            "Set publisher_confirms and on_return_raises",
        )
        broker = rabbit.RabbitBroker(url, default_channel=channel, **{"logger": None, **settings})
        place = rabbit.RabbitExchange(exchange, durable=True) if exchange else None

        async def publish(event: JournalEvent, body: bytes) -> None:
            key = str(bucket_of(event.tenant_id, event.payment_id))
            receipt = await broker.publish(
                body,
                exchange=place,
                routing_key=key if routing_key is None else routing_key,
                mandatory=True,
                persist=True,
                timeout=timeout_s,
                message_id=str(event.event_id),
                message_type=str(event.type),
                correlation_id=str(event.event_id),
                content_type=CONTENT_TYPE,
                headers={"partitionkey": partition_key(event)},
            )
            if type(receipt).__name__ != "Ack":
                raise DeliveryError("RabbitMQ confirmed nothing")

        return cls(_Link(broker, publish, _nothing), source=source, timeout_s=timeout_s)

    @classmethod
    def redis(
        cls,
        url: str,
        stream: str,
        *,
        source: str = SOURCE,
        timeout_s: float = TIMEOUT_S,
        **settings: Any,
    ) -> Self:
        """
        Return a sink to a stream of Redis, in FastStream's message format.

        Only as durable as the server's ``appendfsync``: with ``always`` an event that was taken is
        on disk, with ``everysec`` the last second is lost with the machine.

        Args:
            url: Address.
            stream: Its key. Nothing is trimmed; that is for consumers to do.
            source: Names the host to consumers: a URI reference.
            timeout_s: How long the answer is waited for.
            settings: Any other of FastStream's ``RedisBroker``.
        """
        broker = _module("redis").RedisBroker(url, **{"logger": None, **settings})

        async def publish(event: JournalEvent, body: bytes) -> None:
            headers = {"content-type": CONTENT_TYPE, "id": str(event.event_id)}
            receipt = await broker.publish(
                body,
                stream=stream,
                maxlen=None,
                headers=headers,
                correlation_id=str(event.event_id),
            )
            if not receipt:
                raise DeliveryError("Redis gave no id")

        async def verify(client: Any) -> None:
            known = {**await client.info("persistence"), **await client.info("memory")}
            off, policy = not known.get("aof_enabled"), known.get("maxmemory_policy")
            _refuse_if(off, "Redis", "keeps no append-only file", "Set appendonly yes")
            _refuse_if(
                policy != "noeviction",
                "Redis",
                f"evicts by {policy}",
                "Set maxmemory-policy noeviction",
            )

        return cls(_Link(broker, publish, verify), source=source, timeout_s=timeout_s)

    async def open(self) -> None:
        """
        Connect, and ask the server about what this sink needs.

        Raises:
            MisconfiguredError: The server would lose what it acknowledges.
            DeliveryError: The server cannot be reached.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                client = await self._link.broker.connect()
                await self._link.broker.start()
                await self._link.verify(client)
        except MisconfiguredError:
            await self.aclose()
            raise
        except Exception as error:
            await self.aclose()
            raise DeliveryError(f"{self._name} cannot be reached: {_what(error)}") from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._link.broker.stop()

    async def deliver(self, event: JournalEvent, /) -> None:
        """Return when the broker has *event*; raise ``DeliveryError`` otherwise."""
        body = structured(event, self._source)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._link.publish(event, body)
        except DeliveryError:
            raise
        except Exception as error:
            what = _what(error)
            is_poison = what in self._link.poison
            raise DeliveryError(f"{self._name} did not take it: {what}", is_poison) from error

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def _name(self) -> str:
        return type(self._link.broker).__name__.removesuffix("Broker")


async def _nothing(_: Any) -> None:
    """Ask the server nothing."""


def _what(error: Exception) -> str:
    """Return what went wrong, without what the broker's text may hold."""
    inner = error.args[0] if error.args else None
    name = getattr(inner, "name", None)  # confluent_kafka.KafkaError
    said = name() if callable(name) else None
    return said if isinstance(said, str) else type(error).__name__


def _check_kafka(settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse what turns durability off, wherever it is said; ``config`` has the last word."""
    acks = [
        settings["acks"],
        *(config.get(one, "all") for one in ("acks", "request.required.acks")),
    ]
    idempotent = [settings["enable_idempotence"], config.get("enable.idempotence", True)]
    _refuse_if(
        any(str(one) not in {"all", "-1"} for one in acks),
        "Kafka acks",
        "not every replica in sync has to have the event",
        "Leave acks to the sink: all",
    )
    _refuse_if(
        any(str(one).lower() != "true" for one in idempotent),
        "Kafka enable_idempotence",
        "a retry could overtake or double an event",
        "Leave enable_idempotence to the sink: true",
    )


def _refuse_if(is_wrong: bool, place: str, problem: str, remedy: str) -> None:  # noqa: FBT001 - told at once
    if is_wrong:
        raise MisconfiguredError(place, problem, remedy)


def _module(broker: str) -> Any:
    """Return FastStream's module for *broker*."""
    try:
        return import_module(f"faststream.{broker}")
    except ImportError as error:
        extra = {"confluent": "kafka"}.get(broker, broker)
        raise ImportError(
            f"the sink to {extra} needs FastStream: pip install 'railcore[{extra}]'"
        ) from error
