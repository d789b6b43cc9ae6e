"""Apply trained networks to whole images."""
