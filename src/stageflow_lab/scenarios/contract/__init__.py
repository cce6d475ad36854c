"""Rows about contracts: typed outputs, their evolution, and what a violation tells."""
