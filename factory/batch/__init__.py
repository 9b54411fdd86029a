"""A folder of pictures -> a folder of results (docs/batch.md).

plan     which jobs there are, and what each is called
ledger   manifest.jsonl and the lock: what was tried before, and that nobody else is at it
run      the work, over one or more workers
report   report.html
"""

from .plan import BatchOptions

__all__ = ["BatchOptions"]
