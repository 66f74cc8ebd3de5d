import agcxr


def test_the_door_names_what_it_opens():
    assert dir(agcxr) == ["AGCNN", "FINDINGS", "LABELS", "Predictor", "__version__"]
    assert all(getattr(agcxr, name) is not None for name in dir(agcxr))
