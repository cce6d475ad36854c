"""Rows of section 1.2: graphs and their execution."""
