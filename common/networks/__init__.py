"""Networks and their training: architectures, crops, augmentation, DP-SGD, federated averaging."""
