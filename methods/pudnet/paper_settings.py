"""The paper's settings of PudNet, by target and the family that is meta-trained on."""

from __future__ import annotations

# Share of the sketch in the initial residual (section 4.3), and the default where the paper states none.
ETA = {
    "convnet3": {"fashion": 0.2, "cifar100": 0.1, "cifar100-c20": 0.1, "imagenet": 0.3},
    "resnet18": {"fashion": 0.2, "cifar100": 0.5, "cifar100-c20": 0.5, "imagenet": 0.5},
}
DEFAULT_ETA = 0.2
# Stacked GRU layers: the best of Table 11 for ResNet-18, one where the paper states none.
GRU_LAYERS = {"resnet18": {"fashion": 2, "digits": 2, "cifar100": 2, "cifar100-c20": 2, "imagenet": 4}}


def paper_settings(family: str, target: str) -> dict[str, float | int]:
    """Return `eta` and `gru_layers` for `family` and `target`; ResNet-34, for which the paper has none, takes ResNet-18's."""
    like = "resnet18" if target.startswith("resnet") else target
    return {
        "eta": ETA.get(like, {}).get(family, DEFAULT_ETA),
        "gru_layers": GRU_LAYERS.get(like, {}).get(family, 1),
    }
