"""The pure protocol: events in, effects out. Imports no socket, file, clock, thread or random source."""
