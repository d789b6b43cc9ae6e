"""Layouts: one module a way in which datasets lie on disk; each recognises and reads it."""
