"""${message}."""

from alembic import op

from railcore_sqlalchemy.schema import run

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Expand first; contract in a later release."""
    ${upgrades if upgrades else "run(op.get_bind())"}


def downgrade() -> None:
    """Undo `upgrade`, or say that it cannot be undone."""
    ${downgrades if downgrades else "run(op.get_bind())"}
