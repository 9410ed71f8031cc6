"""Image sources by name. Importing this package reads no image; `suites.sources.loading` does."""

from pudnet_bench.suites.sources.catalog import SOURCES, SourceError, SourceSpec

__all__ = ["SOURCES", "SourceError", "SourceSpec"]
