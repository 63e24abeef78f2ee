"""Training runs: flags, folders, training and scoring, shared by the experiments."""
