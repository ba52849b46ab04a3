"""The prediction of scenes: scenes of noise, and models to predict them with."""
