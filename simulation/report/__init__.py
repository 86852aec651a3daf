"""Report of a simulation, what it leaves: its record, the closing lines on the terminal."""
