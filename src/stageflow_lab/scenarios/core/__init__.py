"""Rows of section 1.1: context and state."""
