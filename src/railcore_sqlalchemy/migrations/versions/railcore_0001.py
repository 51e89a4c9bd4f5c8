"""Create the schema; the same files as `railcore_sqlalchemy.schema.install`."""

from alembic import op

from railcore_sqlalchemy.schema import CREATE, DROP, run

revision = "railcore_0001"
down_revision = None
branch_labels = ("railcore",)
depends_on = None


def upgrade() -> None:
    """Create tables, guards and their data."""
    run(op.get_bind(), *CREATE)


def downgrade() -> None:
    """Remove them, and all data with them."""
    run(op.get_bind(), *DROP)
