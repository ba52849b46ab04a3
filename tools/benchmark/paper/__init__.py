"""The model, decoders and operators of the paper, in their own structure."""
