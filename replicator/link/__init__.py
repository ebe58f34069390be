"""The protocol between the engine's process and its worker, and the shared lease word."""
