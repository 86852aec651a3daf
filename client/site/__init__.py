"""Site settings, written by site IT, and the log that stays with them: site file, privacy
policy."""
