"""A table of its own: ProtoNet by the number of images that make a class mean, beside Pretrained."""

from pudnet_bench.suites.declaration import Suite, Variant

IMAGES = (1, 5, 10)

SUITE = Suite(
    name="my-suite",  # for runs/ and `python -m harness status`
    title="ProtoNet by the images behind a class mean",
    targets=("convnet3",),  # or resnet18, resnet34
    families=("fashion", "cifar100"),  # of --profile standard and paper, or with --families
    embedded=("digits",),  # of --profile quick, the default
    variants=(  # a row each: its name, its method, its label, the method's options
        *(Variant(f"mean-of-{n}", "protonet", f"ProtoNet, {n}", options=(("support_per_class", n),)) for n in IMAGES),
        Variant("pretrained", "pretrained", "Pretrained"),
    ),
)
