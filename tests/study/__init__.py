"""Studies: grid files, planning all settings, running, tables."""
