"""Readers of finetuning data: those of the libraries, with errors that name the fault."""
