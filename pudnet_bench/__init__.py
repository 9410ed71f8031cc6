"""pudnet-bench: measure whether predicting a ConvNet's parameters can replace training it.

The names below are public; they are imported on first use, so that `import pudnet_bench` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pudnet_bench.methods.base import Dataset, Method, Snapshot
    from pudnet_bench.suites.declaration import Suite, Variant
    from pudnet_bench.suites.family import Family

__version__ = "0.2.0"
__all__ = ["Dataset", "Family", "Method", "Snapshot", "Suite", "Variant", "__version__"]

_MODULES = {
    **dict.fromkeys(("Dataset", "Method", "Snapshot"), "pudnet_bench.methods.base"),
    **dict.fromkeys(("Suite", "Variant"), "pudnet_bench.suites.declaration"),
    "Family": "pudnet_bench.suites.family",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'pudnet_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
