"""What a simulation leaves: its record, the closing lines on the terminal."""
