"""Bytes and their meaning: chunks, compression, frames."""
