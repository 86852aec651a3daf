"""What site IT writes, and the log that stays with it: site file, privacy policy."""
