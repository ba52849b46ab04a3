"""Data of one's own in any common form: recognise, inspect and import it."""
