"""Finetuning recipes: their table, a small version of each, and their published figures."""
