"""pudnet-bench: measures whether predicting a ConvNet's parameters can replace training it."""
