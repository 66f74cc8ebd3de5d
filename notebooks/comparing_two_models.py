# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
# %% [markdown]
# # Comparing two models
#
# Two ways to read the same films are compared film by film: the included model on each film as it is, and averaged
# with its mirror image. Any two tables of probabilities compare the same way, also those of other programs. Research
# use only, not a medical device. Installation: see the quick start.

# %%
from pathlib import Path

from agcxr.cli import main
from agcxr.data.phantom_collection import write_phantom

made = write_phantom(Path("phantom"), 40, seed=5)
labels = made / "Data_Entry_2017_v2020.csv"
main(["predict", "starter", str(made / "images"), "--out", "plain.csv", "--overwrite"])
main(["predict", "starter", str(made / "images"), "--out", "mirrored.csv", "--views", "flip", "--overwrite"])

# %% [markdown]
# A difference of two AUROCs needs an interval of its own: both are measured on the same films, so most of their
# chance is shared. Overlapping intervals of two models say nothing about their difference.

# %%
from agcxr.evaluation.score import score

compared = score("mirrored.csv", labels, against="plain.csv", resamples=1000)
print(compared)

# %% [markdown]
# The mean difference, in numbers:

# %%
for gap in compared.analysis.mean.gaps:
    if gap.measure == "auroc":
        print(f"{gap.branch} - {gap.against}: {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}), p {gap.p:.3f}")

# %% [markdown]
# How to read it:
#
# - The interval holds 0: these films do not tell the two apart. That is no proof that they are equal.
# - It does not: one ranks these films better. On other films, or after another training, it may not.
# - Many findings were compared. Some of them differ by chance alone; look at the mean first.
