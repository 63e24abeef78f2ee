"""Training runs: the flags, folders, training and scoring that all experiments share."""
