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
# # Reading a report
#
# A model is trained and evaluated on synthetic films, and its numbers are read in the order in which they can
# mislead. Research use only, not a medical device. Installation: see the quick start.
#
# `FILMS` is small, so that this takes minutes; `agcxr demo` itself takes 2,000.

# %%
import os
from pathlib import Path

from agcxr.demo import run_demo

FILMS = int(os.environ.get("AGCXR_NOTEBOOK_FILMS", "600"))
run_demo(Path("demo"), films=FILMS)

# %% [markdown]
# The report is `demo/results/report.html`: open it beside this. Its numbers are in `results.json`, too.

# %%
from agcxr.evaluation.results import load_results

results = load_results("demo/results")
analysis = results.analysis
print(f"{results.split} part of {results.collection}: {analysis.films} films of {analysis.patients} patients")

# %% [markdown]
# ## 1. Whose films?
#
# Numbers hold for films like these. Synthetic ones say nothing of patients. Was any patient trained on?

# %%
print("synthetic:", results.synthetic, "| shared patients:", results.leak.shared_patients)

# %% [markdown]
# ## 2. Is it told from guessing?
#
# The mean AUROC with its interval. An interval that holds .5 tells nothing from guessing.

# %%
for branch in analysis.mean.branches:
    auroc = branch.auroc
    print(f"{branch.branch:7} {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})")

# %% [markdown]
# ## 3. Does the second look add anything?
#
# Fusion minus global, on the same films. An interval that holds 0 shows nothing; one that does not is still no proof
# that attention is the reason.

# %%
for gap in analysis.mean.gaps:
    if gap.measure == "auroc":
        print(f"{gap.branch} - {gap.against}: {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}), p {gap.p:.3f}")

# %% [markdown]
# ## 4. Which findings?
#
# Few positives mean wide intervals; those of fewer than 20 patients are marked.

# %%
import pandas as pd

pd.DataFrame(
    {
        "positives": result.positives,
        "few patients": result.few_patients,
        "AUROC": result.branches[-1].auroc.value,
        "low": result.branches[-1].auroc.low,
        "high": result.branches[-1].auroc.high,
    }
    for result in analysis.labels
).set_index(pd.Index([result.finding for result in analysis.labels])).round(3)

# %% [markdown]
# ## 5. Where did it look?
#
# How large the crops were, and how often no region stood out.

# %%
whole = results.crops[0]
print(
    f"median box {whole.area_median:.0%} of the film; no region stood out on {whole.fallbacks} of {whole.films} films"
)
