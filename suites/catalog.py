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
    Variant("musml", "musml", "MUSML"),
    Variant("adam", "adam", "Adam scratch", EPOCHS),
    Variant("gc", "gc", "GC", EPOCHS),
    Variant("pudnet", "pudnet", "PudNet"),
)

ABLATIONS = (
    Variant("pudnet-wo-context", "pudnet", "PudNet w.o. context", options=(("use_context", False),)),
    Variant("pudnet-random", "pudnet", "PudNet random", options=(("initial_hidden", "random"),)),
    Variant("pudnet-wo-initres", "pudnet", "PudNet w.o. initial residual", options=(("eta", 0.0),)),
    Variant("pudnet-metric", "pudnet", "PudNet metric loss only", options=(("loss_terms", "metric"),)),
    Variant("pudnet-wo-kl", "pudnet", "PudNet w.o. KL", options=(("loss_terms", "no-kl"),)),
    Variant("pudnet", "pudnet", "PudNet"),
)

FINAL = (("50 epochs", ""),)
FINETUNED = (
    Variant("scratch", "adam", "From scratch", FINAL, (("epochs", (50,)),)),
    Variant("finetune-pretrained", "finetune", "Pretrained", FINAL, (("base", "pretrained"),)),
    Variant("finetune-meta-deepbdc", "finetune", "Meta-DeepBDC", FINAL, (("base", "meta-deepbdc"),)),
    Variant("finetune-pudnet", "finetune", "PudNet", FINAL, (("base", "pudnet"),)),
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite("table1", "Accuracy and time, target ConvNet-3", ("convnet3",), PAPER_FAMILIES, GENERAL),
        Suite("table2", "Accuracy and time, target ResNet-18", ("resnet18",), PAPER_FAMILIES, GENERAL),
        Suite("table4", "Ablations of PudNet", ("convnet3", "resnet18"), PAPER_FAMILIES, ABLATIONS),
        Suite(
            "table5", "Fine-tuning for 50 epochs", ("convnet3", "resnet18"), ("cifar100-20",), FINETUNED, ("digits-4",)
        ),
    )
}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", "embedded digits, minutes on two CPU cores", True, 50, 3, 40, 20, 3, 10),
        Profile("standard", "real images, one workstation", False, 100, 20, 2_000, 50, 8, 20),
        Profile("paper", "the paper's counts", False, 500, 500, None, 500, 20, 100),
    )
}
