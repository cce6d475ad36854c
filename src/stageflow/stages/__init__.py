"""Batteries: ready-made stage bodies, a folder for each kind. Loaded when they are imported."""
