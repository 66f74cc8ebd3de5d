"""Sets of findings: names that can be told apart, what is known of standard ones, files."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agcxr.findings import CHESTXRAY14, Findings, read_findings
from agcxr.labels import FINDINGS, LABELS, LOCALISED


def test_the_fifteen_are_the_default():
    assert CHESTXRAY14.labels == LABELS
    assert CHESTXRAY14.names == FINDINGS
    assert CHESTXRAY14.positions == tuple(range(14))
    assert CHESTXRAY14.localised == LOCALISED
    assert len(CHESTXRAY14.diffuse) == 7
    assert Findings.of(LABELS) is CHESTXRAY14
    assert CHESTXRAY14.canonical("pleural-effusion") == "Effusion"
    assert CHESTXRAY14.canonical("Tuberculosis") is None


def test_own_names_know_what_standard_findings_are():
    own = Findings.of(["Pleural Effusion", "TB", "My sign", "Healthy"])
    assert (own.none, own.names) == ("Healthy", ("Pleural Effusion", "TB", "My sign"))
    assert own.canonical("effusion") == "Pleural Effusion"
    assert own.canonical("tuberculosis") == "TB"
    assert [own.short_name(name) for name in own.labels] == ["Effu", "TB", "Mysi", "None"]
    assert own.codes["Pleural Effusion"] == CHESTXRAY14.codes["Effusion"]
    assert "My sign" not in own.codes
    assert (own.localised, own.diffuse) == (("Pleural Effusion",), ())


def test_labels_of_two_sets_meet_by_the_spellings_of_either():
    own = Findings.of(["Pleural Effusion", "TB"])
    assert CHESTXRAY14.column("Effusion", own) == "Pleural Effusion"
    assert own.column("Pleural Effusion", CHESTXRAY14) == "Effusion"
    assert own.column("TB", CHESTXRAY14) is None


def test_two_labels_of_one_standard_finding_share_no_other_spelling():
    own = Findings.of(["Effusion", "Pleural Effusion"])
    assert (own.canonical("effusion"), own.canonical("Pleural-effusion")) == ("Effusion", "Pleural Effusion")
    assert own.aliases == {}


def test_a_set_survives_json():
    own = Findings.of(["Fracture", "Ärztliche Notiz", "No Finding"], "clinic")
    assert Findings.model_validate_json(own.model_dump_json()) == own


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["Edema", "edema"], "labels 'Edema' and 'edema' cannot be told apart; rename one of them"),
        (["Rib-fracture", "rib fracture"], "labels 'Rib-fracture' and 'rib fracture' cannot be told apart"),
        (["a", " "], "the label ' ' cannot name a finding; expected 1 to 100 letters"),
        (["a\nb"], r"the label 'a\\nb' cannot name a finding"),
        (["x" * 101], "cannot name a finding"),
        ([], "labels: Tuple should have at least 1 item"),
    ],
)
def test_names_that_cannot_be_told_apart(labels, reason):
    with pytest.raises(ValueError, match=reason):
        Findings.of(labels)


def test_nothing_is_stated_of_a_name_that_is_no_label():
    with pytest.raises(ValidationError, match="codes names 'TB', which is none of the labels A"):
        Findings.model_validate({"labels": ["A"], "codes": {"TB": {"scheme": "SCT", "value": "1", "meaning": "x"}}})
    with pytest.raises(ValidationError, match="'A' cannot be both localised and diffuse"):
        Findings(labels=("A",), localised=("A",), diffuse=("A",))


def test_a_label_that_stands_alone_is_the_question_itself():
    assert (Findings.of(["Normal"]).none, Findings.of(["Normal"]).names) == (None, ("Normal",))
    assert CHESTXRAY14.restricted(("No Finding",)).names == ()


def test_a_part_of_a_set():
    part = CHESTXRAY14.restricted(("Mass", "Hernia"))
    assert (part.labels, part.none, part.canonical("hiatal hernia")) == (("Mass", "Hernia"), None, "Hernia")
    assert set(part.codes) == {"Mass", "Hernia"}
    assert CHESTXRAY14.restricted(LABELS) is CHESTXRAY14


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- TB", "states no `labels`; expected a list of names there"),
        ("labels: [", "is neither YAML nor JSON"),
        ("labels: [TB]\nnone: Normal", "none names 'Normal', which is none of the labels TB"),
        ("labels: [TB]\ncode: {}", "code: Extra inputs are not permitted"),
    ],
)
def test_files_that_are_no_findings(tmp_path, text, reason):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_findings(tmp_path / "f.yaml")
    with pytest.raises(ValueError, match="there is no findings file"):
        read_findings(tmp_path / "g.yaml")


def test_none_of_them_is_one_label_however_it_is_called():
    clinic = Findings(labels=("Gout", "unremarkable"), none="unremarkable")
    assert CHESTXRAY14.column("No Finding", clinic) == "unremarkable"
    assert clinic.column("unremarkable", CHESTXRAY14) == "No Finding"
    both = CHESTXRAY14.union(clinic)
    assert both.labels == (*CHESTXRAY14.labels, "Gout")
    assert both.none == "No Finding"
    assert clinic.column("unremarkable", Findings.of(["Gout"])) is None
