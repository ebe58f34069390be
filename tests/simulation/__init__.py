"""Whole clusters in one thread, from one seed: virtual time, and faults in everything but the core."""
