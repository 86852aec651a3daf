"""What attacks find: membership, canaries, and what privacy costs."""
