"""The patient bootstrap at full size: 25,596 films x 15 labels x 3 branches, 1,000 resamples; limit 10 s on 2 cores.

The peer is scikit-learn's roc_auc_score and average_precision_score on a few of the same resamples, scaled up; the
largest difference from it is printed too. Run: python benchmarks/bootstrap.py [--runs 3]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from agcxr.uncertainty import bootstrap, cluster_weights

FILMS, PATIENTS, BRANCHES, RESAMPLES, LIMIT_S = 25_596, 2_797, 3, 1_000, 10.0
# Positives of the official test list, in the order of LABELS.
POSITIVES = (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86, 9861)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    target = (rng.random((FILMS, len(POSITIVES))) < np.array(POSITIVES) / FILMS).astype(float)
    score = 1 / (1 + np.exp(-(rng.normal(size=(BRANCHES, FILMS, len(POSITIVES))) + target)))
    patient = rng.integers(PATIENTS, size=FILMS)
    points = np.full((3, BRANCHES, len(POSITIVES)), 0.5)
    seconds, processor = [], []
    for _ in range(runs):
        start, busy = time.perf_counter(), time.process_time()
        found = bootstrap(
            target, score, patient, rng=np.random.default_rng(1), resamples=RESAMPLES, threshold_PBK=points
        )
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    weight = next(cluster_weights(patient, 2, np.random.default_rng(1)))
    start, gap = time.perf_counter(), 0.0
    for r in range(2):
        for k in range(len(POSITIVES)):
            y, p, w = target[:, k], score[0, :, k], weight[:, r]
            gap = max(gap, abs(roc_auc_score(y, p, sample_weight=w) - found.auroc_BKR[0, k, r]))
            precision = average_precision_score(y, p, sample_weight=w)
            gap = max(gap, abs(precision - found.average_precision_BKR[0, k, r]))
    peer = (time.perf_counter() - start) / 2 * BRANCHES * RESAMPLES
    median = statistics.median(seconds)
    print(f"AUROC, AP, Brier and 3 operating points, {RESAMPLES:,} resamples of {PATIENTS:,} patients, n = {runs}")
    print(f"agcxr         median {median:.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s (limit {LIMIT_S:g} s)")
    print(
        f"              {statistics.median(processor):.2f} s of processor time: what a machine without other work takes"
    )
    print(
        f"scikit-learn  {peer:,.0f} s for AUROC and AP alone (2 resamples of one branch, scaled): {peer / median:.0f}x"
    )
    print(f"largest difference from scikit-learn {gap:.1e}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-learn"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, {packages}")


if __name__ == "__main__":
    main()
