"""Logistic regression, the head of `logistic`, by federated averaging instead of Newton sums: what
a plain FedAvg run would have given."""

from common.learners.mlp import Perceptron
from common.networks.training import LocalTraining

LEARNER = Perceptron(
    name="logistic_fedavg",
    hidden=(),
    training=LocalTraining(rounds=40, epochs=1, batch=32, learning_rate=0.05, weight_decay=0.002),
)
