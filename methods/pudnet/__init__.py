"""PudNet: a hypernetwork that predicts a ConvNet's kernels from a dataset in one forward pass."""
