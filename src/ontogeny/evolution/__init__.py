"""EVOLVE: populations under mutation and selection, and the landscapes they search, in NumPy."""
