"""The finetuning recipes: a table of them, a small form of each, and what they reproduce."""
