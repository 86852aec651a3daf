"""A toy town of hospitals: folders, partitions, local / federated / pooled comparisons and exact
statistics, through the same apps."""
