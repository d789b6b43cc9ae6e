"""File formats of results that a user can ask for: a module for each, found by its name."""
