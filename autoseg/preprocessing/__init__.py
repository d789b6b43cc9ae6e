"""From a case as it is on disk to what a network sees, and back."""
