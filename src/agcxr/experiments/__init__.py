"""Whole experiments: runs of seeds and folds, ablations, and what is fitted after training."""
