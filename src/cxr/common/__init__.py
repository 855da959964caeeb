"""What every stage shares: atomic writes, memory-mapped arrays, names, seeds."""
