"""A training step counted without a GPU: work, memory, kernel launches, waits of the host."""
