"""
Workers: what goes on by itself.

They send what hosts enqueued, look up what is open, apply the inbox, relay the outbox and release
wallet holds whose time is over. Any number of them may run, in any number of processes, each with
all duties or with some: leases with fencing tokens keep them apart.
"""

from railcore_adapters.worker.desk import Duty, WorkerSettings
from railcore_adapters.worker.workers import AsyncWorker, Worker

__all__ = ["AsyncWorker", "Duty", "Worker", "WorkerSettings"]
