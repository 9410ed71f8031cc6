"""Effects of what controls are denied, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pudnet_bench.results.analysis.effects import Effect
from pudnet_bench.results.analysis.intervals import Estimate
from pudnet_bench.results.rendering.interval_text import claim, sentence


def effect_sentences(
    measured: Mapping[Effect, Mapping[str, Estimate]], labels: Mapping[str, str], families: Mapping[str, str]
) -> list[str]:
    """A sentence for each effect (`effects.measured_effects`), with a literal ±; `labels` are those of the variants."""
    return [_sentence(effect, found, labels, families) for effect, found in measured.items()]


def _sentence(
    effect: Effect, found: Mapping[str, Estimate], labels: Mapping[str, str], families: Mapping[str, str]
) -> str:
    found = {name: found[name] for name in (*families, *found) if name in found}
    own, control = (labels.get(name, name) for name in (effect.method, effect.control))
    values = ", ".join(f"{_value(each)} points on {families.get(name, name)}" for name, each in found.items())
    about = sentence("± is the 95% interval", map(claim, found.values()))
    return f"Effect of {effect.name} ({own} minus {control}): {values}. {about}"


def _value(estimate: Estimate) -> str:
    half_width = estimate.half_width()
    return f"{estimate.mean:+.2f}" + ("" if math.isnan(half_width) else f" ± {half_width:.2f}")
