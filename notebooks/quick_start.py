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
# # Quick start
#
# Synthetic films, the model that comes with the package, and its answers. Research use only, not a medical device.
#
# On Colab, upload a wheel of `agcxr` (`uv build` in the repository makes `dist/agcxr-*.whl`) and run the next cell;
# with `agcxr` installed it does nothing.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("agcxr") is None:
    wheels = sorted(str(path) for path in Path().glob("agcxr-*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", *(f"{wheel}[train]" for wheel in wheels)], check=True
    )

# %% [markdown]
# Twelve films, drawn by a program. Their findings are known, since they were drawn.

# %%
import pandas as pd

from agcxr.data.phantom_collection import write_phantom

films = write_phantom(Path("phantom"), 12, seed=0)
truth = pd.read_csv(films / "Data_Entry_2017_v2020.csv").set_index("Image Index")["Finding Labels"]
truth.head()

# %% [markdown]
# The model. `starter` learnt from 1,987 real films, so what it says of drawings is no measure of anything; with real
# films the calls are the same.

# %%
from agcxr.inference.load import load_engine

model = load_engine("starter")
film = model(films / "images" / truth.index[1])
film

# %% [markdown]
# First, is it an upright, whole, frontal chest film? Then: what does the model say, and where did it look?

# %%
print(film.intake.decision, *film.intake.reasons)
for finding, probability in film.top(3):
    print(f"{finding:20} {probability:.2f}")
print("box in pixels of the film:", [round(edge) for edge in film.box])

# %% [markdown]
# The same as a picture, in a file.

# %%
from agcxr.inference.explain import save_picture

save_picture(film, "explained.png")

# %% [markdown]
# Many films at once are read ahead in threads and answered in order; one that cannot be read does not stop the
# others.

# %%
rows = []
for answer in model.stream([films / "images" / name for name in truth.index] + [b"not a film"]):
    reason = getattr(answer, "reason", None)
    rows.append({"film": answer.name, "answer": reason or answer.top(1)[0].finding})
pd.DataFrame(rows)
