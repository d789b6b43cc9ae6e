"""General utilities: errors, files, progress, parallel work, durations, devices, registries."""
