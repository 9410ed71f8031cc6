"""Where images come from. Importing this package reads nothing; ``suites.sources.loading`` does the work."""

from pudnet_bench.suites.sources.catalog import SOURCES, SourceError, SourceSpec

__all__ = ["SOURCES", "SourceError", "SourceSpec"]
