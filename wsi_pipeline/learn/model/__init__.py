"""The DenseNets and their weights: from and to files, with the card that gives them a meaning."""
