"""What must be said wherever results or films appear: what they are for, and whom the NIH asks to be named."""

from __future__ import annotations

RESEARCH_ONLY = "Research use only. Not a medical device."
HOME = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
"""Of ChestX-ray14."""
CITED = (
    "Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8: Hospital-scale Chest X-ray Database",
    "and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases. IEEE CVPR 2017.",
)
CITATION = " ".join(CITED)
"""What the NIH asks to be cited, in one line."""
