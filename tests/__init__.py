"""Tests; a package, because a dependency installs one of this name, which would otherwise be imported."""
