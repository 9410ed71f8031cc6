"""Templates of the files that `python -m harness new` writes; each runs as it is."""
