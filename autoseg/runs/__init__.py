"""The run folder: where everything of a run lies."""
