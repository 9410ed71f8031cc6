"""The suites and profiles that have a name."""

from __future__ import annotations

from suites.declaration import Profile, Suite, Variant

EPOCHS = (("1 epochs", "1 epoch"), ("30 epochs", "30 epochs"), ("50 epochs", "50 epochs"))
PAPER_FAMILIES = ("fashion", "cifar100", "imagenet")

GENERAL = (
    Variant("pretrained", "pretrained", "Pretrained"),
    Variant("matchnet", "matchnet", "MatchNet"),
    Variant("protonet", "protonet", "ProtoNet"),
    Variant("meta-baseline", "meta-baseline", "Meta-Baseline"),
    Variant("meta-deepbdc", "meta-deepbdc", "Meta-DeepBDC"),
    Variant("adam", "adam", "Adam scratch", EPOCHS),
    Variant("gc", "gc", "GC", EPOCHS),
    Variant("pudnet", "pudnet", "PudNet"),
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite("table1", "Accuracy and time, target ConvNet-3", ("convnet3",), PAPER_FAMILIES, GENERAL),
        Suite("table2", "Accuracy and time, target ResNet-18", ("resnet18",), PAPER_FAMILIES, GENERAL),
    )
}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", "embedded digits, minutes on two CPU cores", ("digits",), 50, 3, 60, 20, 3, 10),
        Profile("standard", "real images, one workstation", None, 100, 20, 2_000, 50, 8, 20),
        Profile("paper", "the paper's counts", None, 500, 500, None, 500, 20, 100),
    )
}
