"""Files that ``python -m harness new`` begins with; each runs as it is."""
