"""The command ``replicator``: one file per command; the only part that imports typer and rich."""
