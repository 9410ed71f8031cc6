"""The built-in suites (the tables and figures of the paper) and profiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pudnet_bench.suites.declaration import Profile, Suite, Variant

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


def _all_images(base: str, label: str, head: str = "own", suffix: str = "all") -> Variant:
    options = (("base", base), ("head", head))
    return Variant(f"{base}-{suffix}", "all-images", label, options=options, section="All fit images")


# Training from scratch learns from every fit image, the paper's predictors from 10 per class.
EQUAL_LABELS = (
    *(_all_images(v.name, v.label) for v in GENERAL if v.snapshots != EPOCHS),
    _all_images("pretrained", "Pretrained, ridge regression", "ridge", "ridge"),
)


def _control(name: str, method: str, label: str, effect: str = "", of: str = "pudnet", **options: Any) -> Variant:
    given = tuple(options.items())
    return Variant(name, method, label, options=given, section="Controls", control_of=of, effect=effect)


CONTROLS = (
    _control("pudnet-other", "pudnet-control", "PudNet, kernels of another group", "the dataset", kernels="other"),
    _control(
        "pudnet-other-source",
        "pudnet-control",
        "PudNet, kernels of another source",
        "the source",
        kernels="other-source",
    ),
    _control("pudnet-mean-sketch", "pudnet-control", "PudNet, mean sketch", kernels="mean-sketch"),
    _control("pudnet-mean-kernels", "pudnet-control", "PudNet, mean kernels", kernels="mean-kernels"),
    _control("pudnet-noise", "pudnet-control", "PudNet, kernels of noise", kernels="noise"),
    _control("pudnet-constant", "pudnet-constant", "PudNet trained on a constant sketch"),
    _control("untrained", "untrained", "Untrained target"),
)


def _reading(name: str, label: str, **options: Any) -> tuple[Variant, ...]:
    """A reading of PudNet beside its control, whose kernels are predicted from another dataset."""
    reading = Variant(name, "pudnet", label, options=tuple(options.items()))
    other = _control(
        f"{name}-other", "pudnet-control", f"{label}, other kernels", "the dataset", name, **options, kernels="other"
    )
    return reading, other


READINGS = (
    *_reading("pudnet", "PudNet"),
    *_reading("pudnet-eta-0.9", "Eta 0.9", eta=0.9),
    *_reading("pudnet-sketch-norm", "Normed sketch", sketch_norm=True),
    *_reading("pudnet-class-variance", "Sketch of class means", embedding="class-variance"),
    *_reading("pudnet-predict-norms", "Predicted BatchNorm", predict_norms=True),
    *_reading("pudnet-bn-fit", "BatchNorm of the fit images", bn_mode="fit"),
    *_reading("pudnet-wide", "Wider generator", hidden=32),
    *_reading(
        "pudnet-all-readings", "Normed class means, predicted BatchNorm", sketch_norm=True,
        embedding="class-variance", predict_norms=True,
    ),
)  # fmt: skip

RESNET34 = tuple(variant for variant in GENERAL if variant.name not in ("matchnet", "protonet"))

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


def cross_domain(epochs: tuple[int, ...]) -> tuple[Variant, ...]:
    """Return the rows of Tables 3, 6 and 7: training on thousands of images gives a row after each of `epochs`."""
    rows = tuple((f"{n} epochs", f"{n} epochs" if n > 1 else "1 epoch") for n in epochs)
    return tuple(
        replace(variant, snapshots=rows, options=(("epochs", epochs),)) if variant.snapshots == EPOCHS else variant
        for variant in RESNET34
        if variant.name != "meta-baseline"
    )


EMBEDDINGS = (
    Variant("pudnet-sum", "pudnet", "Sum", options=(("embedding", "sum"),)),
    Variant("pudnet-geometric-mean", "pudnet", "Geometric mean", options=(("embedding", "geometric-mean"),)),
    Variant("pudnet-mean-var", "pudnet", "Mean+Var", options=(("embedding", "mean+variance"),)),
    Variant("pudnet", "pudnet", "Mean"),
)
LAYERS = tuple(
    Variant(f"pudnet-{n}-layers", "pudnet", f"{n} layer{'s' if n > 1 else ''}", options=(("gru_layers", n),))
    for n in (1, 2, 4, 6, 8)
)
EXTRACTORS = tuple(
    # ConvNet-3's default extractor is not an option, so that its artifact is shared with the other tables.
    Variant(f"pudnet-{name}", "pudnet", name, options=() if name == "1conv-1linear" else (("extractor", name),))
    for name in ("2conv", "3conv", "4conv", "1conv-1linear", "2conv-1linear", "3conv-1linear")
)
ETAS = tuple(
    Variant(f"pudnet-eta-{x}", "pudnet", f"eta {x}", options=(("eta", x),), curve_label="PudNet", curve_x=x)
    for x in (n / 10 for n in range(10))
)
PUDNET = (Variant("pudnet", "pudnet", "PudNet"),)
CONVERGED = (
    Variant("adam", "adam", "Adam, 10 epochs", (("10 epochs", ""),), (("epochs", (10,)), ("initial_seed", 0))),
)

# Those of Table 10, and the longest training of section 4.1.
MILESTONES = (50, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000)
CONVNET, RESNET = ("convnet3",), ("resnet18",)
BOTH = CONVNET + RESNET

SUITES = {
    suite.name: replace(suite, reference="pudnet")
    for suite in (
        Suite("table1", "Accuracy and time, target ConvNet-3", CONVNET, PAPER_FAMILIES, (*GENERAL, *EQUAL_LABELS)),
        Suite("table2", "Accuracy and time, target ResNet-18", RESNET, PAPER_FAMILIES, (*GENERAL, *EQUAL_LABELS)),
        Suite("table3", "Cross-domain, CIFAR100 to Animals-10", BOTH, ("animals10",), cross_domain((1, 5, 10)),
              embedded=("digits-halves",)),
        Suite("table4", "Ablations of PudNet", BOTH, PAPER_FAMILIES, ABLATIONS),
        Suite("table5", "Fine-tuning for 50 epochs", BOTH, ("cifar100-20",), FINETUNED, embedded=("digits-4",)),
        Suite("table6", "Cross-domain, CIFAR100 to CIFAR-10", BOTH, ("cifar10",), cross_domain((1, 5, 10, 20)),
              embedded=("digits-halves",)),
        Suite("table7", "Cross-domain, ImageNet to Animals-10 and CIFAR-10", RESNET, ("animals10-84", "cifar10-84"),
              cross_domain((1, 5, 10, 20)), embedded=("digits-halves",)),
        Suite("table8", "Accuracy and time, target ResNet-34", ("resnet34",), ("cifar100",), RESNET34),
        Suite("table9", "Dataset embeddings of PudNet", CONVNET, ("cifar100",), EMBEDDINGS),
        Suite("table10", "Training classes and training groups", CONVNET, ("cifar100-c20", "cifar100"), PUDNET,
              embedded=("digits-c4", "digits"), milestones=MILESTONES),
        Suite("table11", "Stacked GRU layers of PudNet", RESNET, ("cifar100", "imagenet"), LAYERS),
        Suite("table12", "Feature extractors of PudNet", CONVNET, ("cifar100",), EXTRACTORS),
        Suite("controls", "Controls: whether the prediction depends on the dataset", BOTH, (*PAPER_FAMILIES, "mixed"),
              (*(variant for variant in GENERAL if variant.name in ("pretrained", "protonet", "pudnet")), *CONTROLS)),
        Suite("readings", "Readings of PudNet, on held-out training classes", CONVNET,
              ("cifar100.held-out", "mixed.held-out"), READINGS, embedded=("digits.held-out",), figure="effects"),
        Suite("figure1", "Correlation of datasets and trained parameters", CONVNET,
              ("fashion-3000", "cifar100-3000", "imagenet-3000"), CONVERGED, embedded=("digits-400",), figure="correlation",
              groups=(("quick", 50), ("standard", 200), ("paper", 1_000))),
        Suite("figure6", "Accuracy and training groups, target ConvNet-3", CONVNET, PAPER_FAMILIES, PUDNET,
              milestones=MILESTONES, figure="groups"),
        Suite("figure7", "Accuracy and training groups, target ResNet-18", RESNET, PAPER_FAMILIES, PUDNET,
              milestones=MILESTONES, figure="groups"),
        Suite("figure8", "Accuracy and eta", BOTH, PAPER_FAMILIES, ETAS, figure="eta"),
        Suite("figure9", "Losses in meta-training", CONVNET, PAPER_FAMILIES, PUDNET, figure="losses"),
    )
}  # fmt: skip

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick",
            "embedded digits, one class split, minutes on two CPU cores",
            True,
            50,
            3,
            40,
            20,
            3,
            10,
            1,
            resnet_divisor=4,
        ),
        Profile("standard", "real images, five class splits, one workstation", False, 100, 20, 2_000, 50, 8, 20, 5),
        Profile("paper", "the paper's counts, ten class splits", False, 500, 500, None, 500, 20, 100, 10),
    )
}
