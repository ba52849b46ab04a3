"""The training step: what is trained, on which samples, and what is measured of it."""
