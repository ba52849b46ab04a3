"""Operators: cases, compiled packages, and the time of each implementation."""
