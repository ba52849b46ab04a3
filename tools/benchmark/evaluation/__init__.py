"""Evaluation: the implementations that ``evaluate.py`` times against each other."""
