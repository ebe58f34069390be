"""Teeth: substitutions that break one rule each, from outside; the core has no switch for any of them."""
