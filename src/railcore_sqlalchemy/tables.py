"""
The tables, for queries with SQLAlchemy and for Alembic's autogenerate.

They mirror ``sql/schema.sql`` and ``sql/wallet.sql``, which create them; a test compares the two.
Guards and privileges are not told here.
"""

from typing import Any

from sqlalchemy import (
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

__all__ = [
    "bucket",
    "discrepancy",
    "edge",
    "event",
    "execution",
    "inbox",
    "inbox_body",
    "metadata",
    "outbox",
    "payment",
    "reference",
    "wallet_account",
    "wallet_hold",
    "wallet_reference",
    "wallet_transfer",
]

metadata = MetaData()


def _key(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text(collation="C"), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text(), nullable=nullable)


def _id(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, UUID(as_uuid=True), nullable=nullable)


def _at(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSON(), nullable=nullable)


def _int(name: str, *, nullable: bool = False, zero: bool = False) -> Column[int]:
    return Column(name, Integer(), nullable=nullable, server_default=text("0") if zero else None)


def _small(name: str, *, zero: bool = False) -> Column[int]:
    return Column(name, SmallInteger(), nullable=False, server_default=text("0") if zero else None)


def _big(name: str, *, nullable: bool = False, zero: bool = False) -> Column[int]:
    return Column(name, BigInteger(), nullable=nullable, server_default=text("0") if zero else None)


edge = Table(
    "railcore_edge",
    metadata,
    _key("from_status"),
    _key("to_status"),
    PrimaryKeyConstraint("from_status", "to_status", name="railcore_edge_pkey"),
)

event = Table(
    "railcore_event",
    metadata,
    _key("tenant_id"),
    _key("aggregateid"),
    _big("seq"),
    _id("id"),
    _text("aggregatetype"),
    _text("type"),
    _id("execution_id"),
    _int("version", nullable=True),
    _key("from_status"),
    _key("to_status"),
    _text("payment_rail"),
    _text("payment_provider"),
    _key("idempotency_key"),
    _at("occurred_at"),
    _json("payload"),
    PrimaryKeyConstraint("aggregateid", "seq", "tenant_id", name="railcore_event_pkey"),
    UniqueConstraint(
        "execution_id", "version", "to_status", "tenant_id", name="railcore_event_state"
    ),
)

payment = Table(
    "railcore_payment",
    metadata,
    _key("tenant_id"),
    _key("payment_id"),
    _big("seq"),
    _key("currency"),
    _big("due_minor"),
    _big("charging", zero=True),
    _big("authorized", zero=True),
    _big("capturing", zero=True),
    _big("captured", zero=True),
    _big("voiding", zero=True),
    _big("voided", zero=True),
    _big("refunding", zero=True),
    _big("refunded", zero=True),
    _big("disputed", zero=True),
    PrimaryKeyConstraint("payment_id", "tenant_id", name="railcore_payment_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "payment_id", "seq"],
        ["railcore_event.tenant_id", "railcore_event.aggregateid", "railcore_event.seq"],
        name="head_has_event",
    ),
)

execution = Table(
    "railcore_execution",
    metadata,
    _key("tenant_id"),
    _id("execution_id"),
    _key("payment_id"),
    _key("operation"),
    _big("amount_minor"),
    _key("currency"),
    _key("idempotency_key"),
    Column("fingerprint", LargeBinary(), nullable=False),
    _key("provider_key"),
    _key("rail"),
    _key("provider"),
    _key("account"),
    _key("mode"),
    _key("payment_option_key", nullable=True),
    _id("parent_execution_id", nullable=True),
    _at("created_at"),
    _key("status"),
    _key("pending_reason", nullable=True),
    _key("failure_code", nullable=True),
    _key("cause_code", nullable=True),
    _int("version"),
    _key("provider_ref", nullable=True),
    _big("settled_minor", nullable=True),
    _at("expires_at", nullable=True),
    _key("lease_owner", nullable=True),
    _big("lease_token"),
    _at("lease_until", nullable=True),
    _int("send_count"),
    _at("first_sent_at", nullable=True),
    _at("last_sent_at", nullable=True),
    _at("next_check_at", nullable=True),
    _int("check_count"),
    _at("updated_at"),
    _small("phase", zero=True),
    _big("progress", zero=True),
    _int("refused_count", zero=True),
    _json("request"),
    _json("next_action", nullable=True),
    _json("provider_response", nullable=True),
    PrimaryKeyConstraint("execution_id", "tenant_id", name="railcore_execution_pkey"),
    UniqueConstraint("idempotency_key", "tenant_id", name="railcore_execution_key"),
    ForeignKeyConstraint(
        ["tenant_id", "execution_id", "version", "status"],
        [
            "railcore_event.tenant_id",
            "railcore_event.execution_id",
            "railcore_event.version",
            "railcore_event.to_status",
        ],
        name="state_has_event",
    ),
    CheckConstraint(
        "(status in ('processing', 'pending')) = (next_check_at is not null)",
        name="never_forgotten",
    ),
    Index("railcore_execution_provider_key", "provider_key"),
    Index(
        "railcore_execution_provider_ref",
        "provider_ref",
        postgresql_where=text("provider_ref is not null"),
    ),
    Index(
        "railcore_execution_due",
        "next_check_at",
        postgresql_where=text("next_check_at is not null"),
    ),
)

outbox = Table(
    "railcore_outbox",
    metadata,
    _small("bucket"),
    _key("tenant_id"),
    _key("aggregateid"),
    _big("seq"),
    _at("enqueued_at"),
    _int("attempts", zero=True),
    _at("due_at", nullable=True),
    _at("parked_at", nullable=True),
    _text("last_error", nullable=True),
    PrimaryKeyConstraint("bucket", "aggregateid", "tenant_id", "seq", name="railcore_outbox_pkey"),
)

bucket = Table(
    "railcore_bucket",
    metadata,
    _small("bucket"),
    _key("owner", nullable=True),
    _big("token", zero=True),
    _at("until", nullable=True),
    PrimaryKeyConstraint("bucket", name="railcore_bucket_pkey"),
)

discrepancy = Table(
    "railcore_discrepancy",
    metadata,
    _key("tenant_id"),
    _id("discrepancy_id"),
    _id("execution_id", nullable=True),
    _key("payment_id"),
    _big("seq"),
    _key("kind"),
    _json("detail"),
    _at("opened_at"),
    _big("disputed_minor", zero=True),
    _at("resolved_at", nullable=True),
    _text("resolved_by", nullable=True),
    _text("evidence", nullable=True),
    _text("resolution", nullable=True),
    _id("resolving_execution_id", nullable=True),
    _big("resolved_seq", nullable=True),
    PrimaryKeyConstraint("discrepancy_id", "tenant_id", name="railcore_discrepancy_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "payment_id", "seq"],
        ["railcore_event.tenant_id", "railcore_event.aggregateid", "railcore_event.seq"],
        name="discrepancy_has_event",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "execution_id"],
        ["railcore_execution.tenant_id", "railcore_execution.execution_id"],
        name="discrepancy_has_execution",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "payment_id", "resolved_seq"],
        ["railcore_event.tenant_id", "railcore_event.aggregateid", "railcore_event.seq"],
        name="resolution_has_event",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "resolving_execution_id"],
        ["railcore_execution.tenant_id", "railcore_execution.execution_id"],
        name="resolution_has_execution",
    ),
    CheckConstraint(
        "num_nulls(resolved_at, resolved_by, evidence, resolution, resolved_seq) in (0, 5)",
        name="resolved_says_how",
    ),
    CheckConstraint(
        "(coalesce(resolution, 'accepted') = 'accepted') = (resolving_execution_id is null)",
        name="remedy_has_execution",
    ),
    CheckConstraint("resolution in ('accepted', 'adopt', 'refund')", name="remedy_is_known"),
    CheckConstraint(
        "(kind = 'orphan_charge') = (execution_id is null)", name="orphan_has_no_execution"
    ),
    Index(
        "railcore_discrepancy_open",
        "tenant_id",
        "opened_at",
        postgresql_where=text("resolved_at is null"),
    ),
)

reference = Table(
    "railcore_reference",
    metadata,
    _key("tenant_id"),
    _key("provider"),
    _key("account"),
    _key("reference"),
    _id("execution_id"),
    _at("created_at"),
    PrimaryKeyConstraint(
        "reference", "account", "provider", "tenant_id", name="railcore_reference_pkey"
    ),
    ForeignKeyConstraint(
        ["tenant_id", "execution_id"],
        ["railcore_execution.tenant_id", "railcore_execution.execution_id"],
        name="reference_has_execution",
    ),
)

inbox = Table(
    "railcore_inbox",
    metadata,
    _key("tenant_id"),
    _key("provider"),
    _key("account"),
    _key("event_id"),
    Column("body_sha256", LargeBinary(), nullable=False),
    _at("signed_at", nullable=True),
    _at("received_at"),
    _key("state"),
    _int("attempts"),
    _at("next_attempt_at", nullable=True),
    _at("settled_at", nullable=True),
    _text("problem", nullable=True),
    _int("faults", zero=True),
    PrimaryKeyConstraint(
        "event_id", "account", "provider", "tenant_id", name="railcore_inbox_pkey"
    ),
    CheckConstraint("octet_length(body_sha256) = 32", name="inbox_hash_is_sha256"),
    CheckConstraint("state in ('received', 'applied', 'parked')", name="inbox_state_is_known"),
    CheckConstraint(
        "(state = 'received') = (next_attempt_at is not null)", name="inbox_never_forgotten"
    ),
    Index(
        "railcore_inbox_due",
        "next_attempt_at",
        postgresql_where=text("next_attempt_at is not null"),
    ),
    Index("railcore_inbox_received", "received_at"),
)

inbox_body = Table(
    "railcore_inbox_body",
    metadata,
    _key("tenant_id"),
    _key("provider"),
    _key("account"),
    _key("event_id"),
    _at("received_at"),
    Column("body", LargeBinary(), nullable=False),
    PrimaryKeyConstraint(
        "event_id", "account", "provider", "tenant_id", name="railcore_inbox_body_pkey"
    ),
    CheckConstraint("octet_length(body) <= 1048576", name="inbox_body_is_bounded"),
)

wallet_account = Table(
    "railcore_wallet_account",
    metadata,
    _key("tenant_id"),
    _key("account_id"),
    _key("currency"),
    _key("kind"),
    _at("opened_at"),
    _big("credits_posted", zero=True),
    _big("debits_posted", zero=True),
    _big("debits_pending", zero=True),
    PrimaryKeyConstraint(
        "tenant_id", "account_id", "currency", name="railcore_wallet_account_pkey"
    ),
    CheckConstraint(
        "credits_posted - debits_posted - debits_pending >= 0", name="wallet_available"
    ),
    CheckConstraint(
        "least(credits_posted, debits_posted, debits_pending) >= 0", name="wallet_sums_not_negative"
    ),
    CheckConstraint(
        "kind = 'customer' or kind = 'house'"
        " and greatest(credits_posted, debits_posted, debits_pending) = 0",
        name="wallet_kind",
    ),
)

wallet_transfer = Table(
    "railcore_wallet_transfer",
    metadata,
    _key("tenant_id"),
    _id("transfer_id"),
    _key("debit_account"),
    _key("credit_account"),
    _key("currency"),
    _big("amount_minor"),
    _key("kind"),
    _id("pending_id", nullable=True),
    Column("hold_s", Double(), nullable=True),
    _at("made_at"),
    PrimaryKeyConstraint("transfer_id", "tenant_id", name="railcore_wallet_transfer_pkey"),
    CheckConstraint("amount_minor > 0", name="transfer_amount"),
    CheckConstraint("debit_account <> credit_account", name="transfer_between_two"),
    CheckConstraint(
        "case kind when 'single' then pending_id is null and hold_s is null"
        " when 'pending' then pending_id is null and coalesce(hold_s > 0, false)"
        " when 'post' then pending_id is not null and hold_s is null"
        " when 'void' then pending_id is not null and hold_s is null else false end",
        name="transfer_kind",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "debit_account", "currency"],
        [
            "railcore_wallet_account.tenant_id",
            "railcore_wallet_account.account_id",
            "railcore_wallet_account.currency",
        ],
        name="transfer_debits",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "credit_account", "currency"],
        [
            "railcore_wallet_account.tenant_id",
            "railcore_wallet_account.account_id",
            "railcore_wallet_account.currency",
        ],
        name="transfer_credits",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "pending_id"],
        ["railcore_wallet_transfer.tenant_id", "railcore_wallet_transfer.transfer_id"],
        name="transfer_resolves",
    ),
    Index(
        "railcore_wallet_transfer_resolution",
        "pending_id",
        "tenant_id",
        unique=True,
        postgresql_where=text("pending_id is not null"),
    ),
)

wallet_hold = Table(
    "railcore_wallet_hold",
    metadata,
    _key("tenant_id"),
    _id("transfer_id"),
    _at("expires_at"),
    _at("resolved_at", nullable=True),
    PrimaryKeyConstraint("tenant_id", "transfer_id", name="railcore_wallet_hold_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "transfer_id"],
        ["railcore_wallet_transfer.tenant_id", "railcore_wallet_transfer.transfer_id"],
        name="hold_has_transfer",
    ),
    Index("railcore_wallet_hold_open", "expires_at", postgresql_where=text("resolved_at is null")),
)

wallet_reference = Table(
    "railcore_wallet_reference",
    metadata,
    _key("tenant_id"),
    _id("reference"),
    _id("transfer_id"),
    PrimaryKeyConstraint(
        "tenant_id", "reference", "transfer_id", name="railcore_wallet_reference_pkey"
    ),
    ForeignKeyConstraint(
        ["tenant_id", "transfer_id"],
        ["railcore_wallet_transfer.tenant_id", "railcore_wallet_transfer.transfer_id"],
        name="reference_has_transfer",
    ),
)
