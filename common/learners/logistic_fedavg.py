"""The head of `logistic`, trained by federated averaging instead of Newton sums: what a plain FedAvg run would have given."""

from common.learners.mlp import Perceptron

LEARNER = Perceptron(name="logistic_fedavg", hidden=(), rounds=40, epochs=1, weight_decay=0.002)
