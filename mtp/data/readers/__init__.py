"""Readers of finetuning data that the libraries lack, or whose errors name the faulty line."""
