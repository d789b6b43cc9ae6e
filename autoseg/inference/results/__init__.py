"""What is written for a predicted case: a module for each kind of result, found by its name."""
