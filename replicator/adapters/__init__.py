"""The outside world behind the Protocols of ports: ZeroMQ, LMDB, PySyncObj."""
