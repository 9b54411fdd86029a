"""The operations that pay for a second implementation: each has a plain torch twin that runs everywhere, and backends that are chosen
by device and by what is installed (backends.py). Knows nothing of networks."""
