"""Planners of published systems, a module each."""
