"""Provenance: what was made, by which step, from what. The only SQL and the only file store of Temper."""
