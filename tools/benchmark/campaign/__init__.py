"""Faults that are done to training, and what is compared afterwards."""
