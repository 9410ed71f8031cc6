"""What the project holds itself to in speed: ratios measured here and now, each against the plain script it names.

``python -m harness bench`` shows them and ``tests/benchmarks`` keeps them; both call the same functions. A subject is a
module of this package, named in ``SUBJECTS``, with ``measure(setting: Setting) -> list[Ratio]``.
"""

from __future__ import annotations

SUBJECTS = {
    "prediction": "PudNet's prediction against the bare forward pass of its parts",
    "meta-training": "PudNet's meta-training against the bare passes of its networks",
    "scratch": "training from scratch at its best against the loop of a plain script",
    "graphs": "training from scratch with CUDA graphs against the same, kernel by kernel",
    "overhead": "a run, its files and tables included, against a bare loop of the same fits",
    "growth": "a large job against as many small ones as make it up",
    "peers": "episodes and ProtoNet's training against the same on learn2learn's pieces",
}
