"""One module a claim family, its rules in it."""
