"""Property tests: operators on random values, and parsers of outside files on damaged ones."""
