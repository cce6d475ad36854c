"""The rows as scenarios: one file a row, one folder a section. Found by looking, not registered."""
