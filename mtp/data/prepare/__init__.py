"""From what a data set's owner distributes to what its config reads."""
