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
# # Your own films
#
# From a folder of films and a table of labels to a measured result. Here the films are synthetic; put your own folder
# and table in their place. Research use only, not a medical device. Installation: see the quick start.

# %%
from pathlib import Path

import pandas as pd

from agcxr.data.phantom_collection import write_phantom

made = write_phantom(Path("phantom"), 40, seed=3)
films = made / "images"
labels = made / "Data_Entry_2017_v2020.csv"

# %% [markdown]
# ## Read them
#
# A row a film: `intake` first, then scores, probabilities and calls. The command line does the same: `agcxr predict
# starter films/ --out predictions.csv`.

# %%
from agcxr.cli import main

main(["predict", "starter", str(films), "--out", "predictions.csv", "--overwrite"])
predictions = pd.read_csv("predictions.csv")
predictions[["image", "intake", "prob_Effusion", "calibrated_Effusion", "call_Effusion"]].head()

# %% [markdown]
# Look at the films that were not accepted before you believe their numbers.

# %%
predictions.loc[predictions["intake"] != "accept", ["image", "intake", "intake_reason"]]

# %% [markdown]
# ## How good is it on them?
#
# Scores against labels, with intervals over patients. The starter never saw drawings, so expect little: the table
# says so by intervals that hold .5.

# %%
from agcxr.evaluation.score import score

measured = score("predictions.csv", labels, resamples=1000)
print(measured)

# %% [markdown]
# ## Prepare them for training
#
# `prepare` splits by patient and writes what training reads. Then `agcxr train --data prepared --preset strong --out
# runs/mine` and `agcxr evaluate runs/mine --data prepared`, which take longer than a notebook should.

# %%
from agcxr.data.prepare import open_prepared, prepare_nih

prepare_nih(films, labels, "prepared")
prepared = open_prepared("prepared")
print(prepared.plan.summary())
