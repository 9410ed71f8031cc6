"""A table of ProtoNet by the number of images behind a class mean, beside Pretrained."""

from pudnet_bench.suites.declaration import Suite, Variant

IMAGES = (1, 5, 10)

SUITE = Suite(
    name="my-suite",  # for runs/ and `python -m harness status`
    title="ProtoNet by the images behind a class mean",
    targets=("convnet3",),  # or resnet18, resnet34
    families=("fashion", "cifar100"),  # with --profile standard and paper; --families overrides
    embedded=("digits",),  # with --profile quick, the default
    variants=(  # one row each: name, method, label, options of the method
        *(Variant(f"mean-of-{n}", "protonet", f"ProtoNet, {n}", options=(("support_per_class", n),)) for n in IMAGES),
        Variant("pretrained", "pretrained", "Pretrained"),
    ),
)
