"""No domain: errors, files, progress, parallel work, durations, devices."""
