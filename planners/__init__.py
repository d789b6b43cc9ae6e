"""Planners: the policy. Each reads a fingerprint and a request and writes a plan."""
