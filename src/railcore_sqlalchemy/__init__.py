"""Keep payment executions, their events and the wallet in PostgreSQL."""
