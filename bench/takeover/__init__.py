"""What `bench.failover` and `bench.steadiness` are made of: an engine, a history of its lines, the faults."""
