"""What phantoms are made with: scanners, shapes, holdings, draws, files."""
