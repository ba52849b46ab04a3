"""Two commits compared: what ``compare_losses.py`` runs in each, and how figures differ."""
