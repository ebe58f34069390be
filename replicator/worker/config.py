"""The settings as the core knows them: its timers and its window, with who this node and its peers are."""

from __future__ import annotations

from replicator.core.config import Config
from replicator.relations import publication_bytes_max
from replicator.settings import Settings


def core_config(settings: Settings, *, has_engine: bool = True, public_key: str = "") -> Config:
    """The numbers that the core works by."""
    shared = {*Config.__struct_fields__} & {*Settings.__struct_fields__} - {"peers"}
    return Config(
        **{name: getattr(settings, name) for name in shared},
        peers=frozenset(settings.peers) - {settings.node},
        address=settings.address,
        public_key=public_key,
        has_engine=has_engine,
        window_frames_max=settings.window_bytes_max // publication_bytes_max(settings),
    )
