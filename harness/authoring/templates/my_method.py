"""Nearest class mean of the target network's features, learned on groups of the training classes."""

import torch

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Method, Snapshot
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import euclidean_logits, prototypes


class MyMethod(Method):
    name = "my-method"  # of its rows, and for --methods
    # label = "My method"  # heading of its rows in tables and figures; by default the name

    def __init__(self, target, n_training_classes, scale=1.0):  # arguments from the third on are options
        super().__init__(target, n_training_classes)
        self.network, self.scale = targets.build(target), scale

    def to(self, device):  # such as a GPU
        self.network.to(device)

    def features(self, images):  # [n, c, h, w] -> [n, d]
        with self.autocast():  # the precision that all methods of a run share
            return self.network(images).float() * self.scale

    def classifier(self, support):  # labelled images -> a function from images to logits [n, n_classes]
        means = prototypes(self.features(support.images), support.labels, support.n_classes)
        return lambda images: euclidean_logits(self.features(images), means)

    @torch.no_grad()
    def fit(self, dataset):  # the only part that is timed
        self.network.eval()  # BatchNorm must not see the other test images
        yield Snapshot(torch.no_grad()(self.classifier(dataset)))

    # Meta-training, before any unseen group. A method without it omits everything below.
    def meta_train(self, groups, session):
        def losses(episode):  # classify a group's query images by its support images
            logits = self.classifier(episode.support)(episode.query.images)
            return {"loss": torch.nn.functional.cross_entropy(logits, episode.query.labels)}

        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        train_until_converged(self, self.network, optimizer, groups.episodes, losses, groups, session)

    def state_dict(self):  # what was learned, as tensors
        return dict(self.network.state_dict())

    def load_state_dict(self, state):
        self.network.load_state_dict(state)
