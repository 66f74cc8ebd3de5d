"""The network: backbones, attention, the three branches, checkpoints."""
