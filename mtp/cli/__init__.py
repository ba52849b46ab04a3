"""Command lines: what the scripts of ``tools`` share."""
