"""Privacy attacks: membership, canaries, and what privacy costs."""
