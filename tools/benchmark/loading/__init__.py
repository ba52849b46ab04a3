"""The data loader: files to measure it on, and the time of both pipelines by stage."""
