"""What the project holds itself to in speed: ratios measured here and now, each against the plain script it names.

``python -m harness bench`` shows them and ``tests/benchmarks`` keeps them; both call the same functions.
"""
