"""JUDGE: declare, run, store, decide, report."""
