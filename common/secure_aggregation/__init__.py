"""Secure aggregation: groups, Shamir shares, pairwise keys, masks, fixed point."""
