"""Planners of published systems, one module for each."""
