"""Ontogeny: read a genome, build a network from it, train it, judge the result."""

__version__ = "0.1.0"
