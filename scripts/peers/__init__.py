"""What scripts/bench-peers is made of."""
