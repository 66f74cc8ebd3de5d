"""Published test AUROCs to set beside ours. None was measured on the films of a run here: splits and budgets differ.

Sources: Guan et al. 2018 (arXiv:1801.09927), all 112,120 films, split 70/10/20 by image, so patients are shared
between training and test; and a public reduced-budget reimplementation ("lite"), 12,120 films, split by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agcxr.labels import FINDINGS


@dataclass(frozen=True)
class Published:
    """One row of a published table: test AUROC per finding, in the order of FINDINGS, and the mean as printed."""

    source: str
    branch: str
    auroc: tuple[float, ...]
    mean: float

    def of(self, finding: str) -> float:
        """The AUROC of a finding; NaN for "No Finding", which was not published."""
        return self.auroc[FINDINGS.index(finding)] if finding in FINDINGS else float("nan")

    def mean_of(self, findings: Sequence[str]) -> float:
        """The mean over some of the findings; as printed where it is over all. NaN for none."""
        if set(findings) == set(FINDINGS):
            return self.mean
        return sum(map(self.of, findings)) / len(findings) if findings else float("nan")


def _row(source: str, branch: str, thousandths: str) -> Published:
    *auroc, mean = (int(number) / 1000 for number in thousandths.split())
    return Published(source, branch, tuple(auroc), mean)


PAPER = "Guan 2018, ResNet-50"
PAPER_DENSENET = "Guan 2018, DenseNet-121"
LITE = "Lite, ResNet-50"

PUBLISHED: tuple[Published, ...] = (
    _row(PAPER, "global", "818 904 881 728 863 780 783 897 807 892 918 815 800 889 841"),
    _row(PAPER, "local", "798 881 862 707 826 736 716 872 805 874 898 808 770 887 817"),
    _row(PAPER, "fusion", "844 937 904 753 893 827 776 919 842 919 941 857 836 903 868"),
    _row(PAPER_DENSENET, "global", "832 906 887 717 870 791 732 891 808 905 912 823 802 883 840"),
    _row(PAPER_DENSENET, "local", "797 865 851 704 829 733 710 850 802 882 874 801 769 872 810"),
    _row(PAPER_DENSENET, "fusion", "853 939 903 754 902 828 774 921 842 924 932 864 837 921 871"),
    _row(LITE, "global", "754 869 850 677 694 623 762 720 747 850 765 765 706 953 767"),
    _row(LITE, "local", "725 703 774 618 555 547 625 655 713 802 584 650 603 808 669"),
    _row(LITE, "fusion", "730 885 850 663 687 639 751 695 733 832 756 763 681 974 760"),
)


@dataclass(frozen=True)
class Context:
    """A range of mean AUROCs in the literature, for scale."""

    what: str
    mean: str


CONTEXT: tuple[Context, ...] = (
    Context("Official split, CNNs at 224 px", ".800 to .824"),
    Context("Official split, CNNs at 512 px", ".816 to .825"),
    Context("Official split, best known transformers", ".830 to .835"),
    Context("Random split by patient, CheXNet reproductions", ".838 to .851"),
)


def published(source: str, branch: str) -> Published:
    """The row of a source and branch; ValueError names those there are."""
    for row in PUBLISHED:
        if (row.source, row.branch) == (source, branch):
            return row
    rows = ", ".join(f"{row.source} {row.branch}" for row in PUBLISHED)
    raise ValueError(f"nothing published for {source!r} {branch!r}; there is {rows}")
