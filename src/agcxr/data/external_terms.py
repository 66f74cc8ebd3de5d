"""What other collections call our findings: their own terms, whole and exact.

Looking for "nodule" inside a report's terms also finds "pseudonodule", "emphysema" also "subcutaneous emphysema" and
"effusion" also "pericardial effusion"; so every term that counts is written out here.
"""

NO_FINDING = "No Finding"
"""What the CheXpert labeler, VinDr-CXR and ChestX-ray14 call "none of them"."""

PADCHEST_TERMS: dict[str, tuple[str, ...]] = {
    "Atelectasis": (
        "atelectasis",
        "atelectasis basal",
        "laminar atelectasis",
        "lobar atelectasis",
        "round atelectasis",
        "segmental atelectasis",
        "total atelectasis",
    ),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": (
        "pleural effusion",
        "loculated pleural effusion",
        "loculated fissural effusion",
        "hydropneumothorax",
        "empyema",
        "hemothorax",
    ),
    "Infiltration": (
        "infiltrates",
        "interstitial pattern",
        "ground glass pattern",
        "reticular interstitial pattern",
        "reticulonodular interstitial pattern",
        "alveolar pattern",
        "consolidation",
        "air bronchogram",
    ),
    "Mass": ("mass", "pulmonary mass"),
    "Nodule": ("nodule", "multiple nodules"),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Consolidation": ("consolidation", "air bronchogram"),
    "Edema": ("pulmonary edema",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Pleural_Thickening": ("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
    "Hernia": ("hiatal hernia",),
    NO_FINDING: ("normal",),
}
"""PadChest's terms (arXiv:1901.07441): a finding with the kinds of it that stand below it in their tree. Infiltration
is the union that TorchXRayVision makes. Masses of the mediastinum, the pleura and soft tissue are none of the lung."""

PADCHEST_SILENT = frozenset({"", "exclude", "suboptimal study", "unchanged"})
"""Terms that say nothing about a film; one with no others is unknown, not negative."""

OPENI_TERMS: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("pulmonary atelectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": ("pleural effusion", "hydropneumothorax", "hemothorax", "hemopneumothorax"),
    "Infiltration": ("infiltrate",),
    "Mass": ("mass",),
    "Nodule": ("nodule",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax", "hemopneumothorax"),
    "Consolidation": ("consolidation",),
    "Edema": ("pulmonary edema",),
    "Emphysema": ("emphysema", "pulmonary emphysema", "bullous emphysema"),
    "Fibrosis": ("fibrosis", "pulmonary fibrosis"),
    "Pleural_Thickening": ("thickening/pleura",),
    "Hernia": ("hernia, hiatal", "hernia, diaphragmatic"),
    NO_FINDING: ("normal",),
}
"""Headings of Open-i's `MeSH/major` terms, which people gave (the `automatic` ones were text-mined). A heading is the
part before "/"; "thickening" counts only where the pleura follows anywhere after it."""

OPENI_SILENT = frozenset({"", "no indexing", "technical quality of image unsatisfactory"})

VINDR_CLASSES: dict[str, str] = {
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "edema": "Edema",
    "emphysema": "Emphysema",
    "infiltration": "Infiltration",
    "no finding": NO_FINDING,
    "pleural effusion": "Effusion",
    "pleural thickening": "Pleural_Thickening",
    "pneumothorax": "Pneumothorax",
    "pulmonary fibrosis": "Fibrosis",
}
"""VinDr-CXR's classes. Its Nodule/Mass is one class of two of ours and so is neither."""

CHEXPERT_COLUMNS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""What the CheXpert labeler reports on (CheXpert and MIMIC-CXR)."""
