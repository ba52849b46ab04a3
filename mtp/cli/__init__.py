"""Command-line code that the scripts in ``tools`` share."""
