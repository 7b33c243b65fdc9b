import numpy as np
import pytest

from jetstudy import inputs, study
from jetstudy.files import write_arrays
from jetstudy.jets import write_jets
from jetstudy.study import StudyError
from jetstudy.surrogate import score

CLASSES = ["gluon", "top"]


def part_of(notebook, **axes):
    values = study.load("smoke")
    return study.Part(notebook, axes, {key: values[key] for key in study.declared(notebook)})


def finished(notebook, label, write):
    """A part of a class and of seed 1, finished once `write` has put files into its folder."""
    part = part_of(notebook, classes=label, seeds=1)
    part.folder.mkdir(parents=True, exist_ok=True)
    (part.folder / study.RECORD).unlink(missing_ok=True)
    assert part.begin()
    write(part.folder)
    part.done()


def test_jets_are_those_of_the_files_and_stand_in_the_record(tiny):
    for label in CLASSES:
        finished("03_synthetic_jets", label, lambda folder, jets=tiny[label]: write_jets(folder / "jets.h5", jets[:40]))
    reader = part_of("06_limit", seeds=1)
    for sample, n in (("source", 300), ("synthetic", 40)):
        for label, found in zip(CLASSES, inputs.jets(reader, sample, CLASSES), strict=True):
            np.testing.assert_array_equal(found.particles, tiny[label][:n].particles)
    assert inputs.classes(reader) == CLASSES
    files = [f"{place}/{c}{end}" for place, end in (("jets", ".h5"), ("synthetic_jets", "/1/jets.h5")) for c in CLASSES]
    assert sorted(reader.inputs) == sorted([*files, "jets/features.json"])
    with pytest.raises(StudyError, match=r"synthetic_jets/gluon/1/fresh\.h5 is not there yet"):
        inputs.jets(reader, "fresh", CLASSES)


def test_a_surrogate_scores_as_the_one_that_was_saved_and_both_its_files_stand_in_the_record(tiny):
    reader = part_of("04_likelihoods", classes="top", seeds=1)
    model = inputs.surrogate(reader, "gluon")
    assert model.label == "gluon" and np.isfinite(score([model], tiny["gluon"][:5])).all()
    assert sorted(reader.inputs) == [f"surrogates/gluon/1/{name}" for name in ("surrogate.json", "weights.safetensors")]


def test_likelihood_ratios_are_the_signals_minus_the_backgrounds_class_by_class(tiny):
    scored = {"gluon": np.array([[1.0, 0.0], [5.0, 7.0]]), "top": np.array([[-1.0, 2.0]])}
    for label, log_prob in scored.items():

        def write(folder, log_prob=log_prob):
            write_arrays(folder / "likelihoods.h5", synthetic=log_prob, source=10 * log_prob)
            write_arrays(folder / "posterior.h5", log_prob=log_prob[:1])
            write_arrays(folder / "checks.h5", scored=log_prob[:, 0], back=log_prob)

        finished("04_likelihoods", label, write)
    reader = part_of("06_limit", seeds=1)
    assert inputs.llr(reader, "synthetic", CLASSES).tolist() == [-1, 2, 3]
    assert inputs.llr(reader, "source", CLASSES[::-1]).tolist() == [30, -10, 20]
    assert inputs.llr(reader, "posterior", CLASSES).tolist() == [-1, 3]
    assert [len(own) for own in inputs.log_prob(reader, "synthetic", CLASSES)] == [2, 1]
    found = inputs.checks(reader, CLASSES)
    assert found["scored"].tolist() == [1, 5, -1] and found["back"].shape == (3, 2)
