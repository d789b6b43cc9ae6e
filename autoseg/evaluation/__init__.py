"""Metrics of predicted label maps against references, per case and summarised; paired statistics; agreement."""
