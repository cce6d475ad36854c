"""Scenarios of the section WORK."""
