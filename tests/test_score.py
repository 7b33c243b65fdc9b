import json

import h5py
import numpy as np
import pytest

from jetstudy import score, study, surrogate
from jetstudy.__main__ import main
from jetstudy.files import digest
from jetstudy.jets import concatenate, write_jets
from jetstudy.surrogate import Surrogate


def wide(jets):
    """The same jets, three times as wide."""
    return type(jets)(jets.particles * np.float32([3, 3, 1]), jets.mask, jets.features)


def test_scores_are_those_of_the_surrogates(tiny, outputs):
    result = score.jets(tiny["top"][:20], "smoke", progress=lambda line: None)
    assert result.classes == ("gluon", "top")
    for column, label in enumerate(result.classes):
        model = Surrogate.load(outputs / "smoke" / "surrogates" / label / "1")
        assert np.allclose(result.log_prob[:, column], model.log_prob(tiny["top"][:20]), atol=1e-3)
    assert np.array_equal(result.llr, result.log_prob[:, 1] - result.log_prob[:, 0])


def test_three_lines_from_a_file_and_the_command_line_agree(tiny, outputs, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:10])
    result = score.jets(tmp_path / "mine.h5", "smoke")
    assert main(["score", "smoke", str(tmp_path / "mine.h5"), "--out", str(tmp_path / "out" / "s.h5")]) == 0
    with h5py.File(tmp_path / "out" / "s.h5") as written:
        assert set(written) == {"log_prob_gluon", "log_prob_top", "llr"}
        assert np.allclose(written["llr"], result.llr, atol=1e-4)
    record = json.loads((tmp_path / "out" / "s.json").read_text())
    assert record["scored"] == 10 and record["jets"]["file"] == "mine.h5" and record["seed"] == 1
    assert {"surrogates/top/1/surrogate.json", "surrogates/top/1/weights.safetensors"} < set(record["inputs"])


def test_jets_of_the_learned_kind_go_without_a_remark(tiny):
    mixture = concatenate([tiny["gluon"][:200], tiny["top"][:60]])
    assert not score.compare(mixture, score.learned(score.reader("smoke"), ("gluon", "top")))["unlike"].any()


def test_wider_jets_are_said_to_be_of_another_kind(tiny):
    known = score.learned(score.reader("smoke"), ("gluon", "top"))
    table = score.compare(wide(tiny["top"]), known).set_index("observable")
    assert table.loc[["etarel", "phirel", "mass"], "unlike"].all()
    assert not table.loc[["ptrel", "ptrel_sum", "multiplicity"], "unlike"].any()
    assert table.loc["etarel", "mean"] == pytest.approx(3 * np.abs(tiny["top"].particles[tiny["top"].mask, 0]).mean())
    words = score.in_words(table.reset_index(), ("gluon", "top"))
    assert words[0].startswith("these jets are not of the kind") and words[1].startswith("etarel: mean absolute value")


def test_a_jet_of_a_number_of_particles_never_seen_is_nan_and_counted(tiny, outputs):
    for label in ("gluon", "top"):
        path = outputs / "smoke" / "surrogates" / label / "1" / "surrogate.json"
        content = json.loads(path.read_text())
        content["p_count"][3] = 0.0
        path.write_text(json.dumps(content))
        record = study.read_record(path.parent)
        record["outputs"]["surrogate.json"] = score.digest(path)
        (path.parent / "record.json").write_text(json.dumps(record))
    sample = tiny["top"][:40]
    result = score.jets(sample, "smoke")
    n_never = int((sample.count == 3).sum())
    assert n_never > 0 and np.array_equal(np.isnan(result.llr), sample.count == 3)
    assert f"{n_never} of 40 jets have a number of particles never seen" in result.remarks[0]


def test_jets_that_are_all_complete_have_no_score_and_that_is_said(tiny, outputs, tmp_path):
    path = outputs / "smoke" / "jets" / "record.json"
    record = json.loads(path.read_text())
    record["parameters"]["jets_kept"] = "leading"
    path.write_text(json.dumps(record))
    write_jets(tmp_path / "mine.h5", tiny["top"][tiny["top"].count < 6][:7])
    result = score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    assert np.isnan(result.llr).all() and result.remarks[0].startswith("of 7 of 7 jets 6 particles or fewer are given")
    assert json.loads((tmp_path / "scores.json").read_text())["scored"] == 0


@pytest.mark.parametrize("out", ["mine.h5", "scores.json"])
def test_scores_overwrite_neither_the_jets_nor_each_other(tiny, tmp_path, capsys, out):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    before = (tmp_path / "mine.h5").read_bytes()
    assert main(["score", "smoke", str(tmp_path / "mine.h5"), "--out", str(tmp_path / out)]) == 2
    assert "scores need a file of their own" in capsys.readouterr().err
    assert (tmp_path / "mine.h5").read_bytes() == before and not (tmp_path / "scores.json").exists()


def test_scores_do_not_overwrite_those_of_other_jets(tiny, outputs, tmp_path, capsys):
    for folder, jets in (("a", tiny["gluon"][:3]), ("b", tiny["top"][:3])):
        (tmp_path / folder).mkdir()
        write_jets(tmp_path / folder / "mine.h5", jets)
    assert main(["score", "smoke", str(tmp_path / "a" / "mine.h5")]) == 0
    assert main(["score", "smoke", str(tmp_path / "a" / "mine.h5")]) == 0  # the same may be made again
    written = outputs / "smoke" / "scores" / "mine.h5"
    before = written.read_bytes()
    assert main(["score", "smoke", str(tmp_path / "b" / "mine.h5")]) == 2
    assert f"{written.with_suffix('.json')} is of other jets, other surrogates or" in capsys.readouterr().err
    assert written.read_bytes() == before


def test_scores_do_not_overwrite_those_of_surrogates_that_were_there_before(tiny, outputs, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    assert main(["score", "smoke", str(tmp_path / "mine.h5")]) == 0
    written = outputs / "smoke" / "scores" / "mine.h5"
    before, record = written.read_bytes(), json.loads(written.with_suffix(".json").read_text())
    record["inputs"]["surrogates/top/1/weights.safetensors"] = "another digest"
    written.with_suffix(".json").write_text(json.dumps(record))
    assert main(["score", "smoke", str(tmp_path / "mine.h5")]) == 2
    assert "is of other jets, other surrogates or another version" in capsys.readouterr().err
    assert written.read_bytes() == before


def test_while_jets_are_made_again_nothing_is_scored(tiny, outputs, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    jets = outputs / "smoke" / "jets"
    (jets / study.RECORD).rename(jets / study.REPLACED)
    assert main(["score", "smoke", str(tmp_path / "mine.h5")]) == 2
    assert "score: jets/features.json is not there yet: run 01_jets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("out.json", notes) for notes in ('{"my": "notes"}', "[1, 2]", '{"jets": "notes"}')),
        ("out.h5", "precious"),
    ],
)
def test_scores_overwrite_nothing_else(tiny, tmp_path, capsys, name, content):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    (tmp_path / name).write_text(content)
    assert main(["score", "smoke", str(tmp_path / "mine.h5"), "--out", str(tmp_path / "out.h5")]) == 2
    assert f"{tmp_path / name} is" in capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("out.*")} == {name} and (tmp_path / name).read_text() == content


def test_a_record_vouches_for_its_own_scores_alone(tiny, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    assert main(["score", "smoke", str(tmp_path / "mine.h5"), "--out", str(tmp_path / "out.h5")]) == 0
    for name in ("out.hdf5", "out.h5"):  # both have the record out.json
        (tmp_path / name).write_text("precious")
        assert main(["score", "smoke", str(tmp_path / "mine.h5"), "--out", str(tmp_path / name)]) == 2
        assert f"{tmp_path / name} is there, and no record says" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "precious"


def test_a_folder_is_no_file_of_scores(tiny, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    assert main(["score", "smoke", str(tmp_path / "mine.h5"), "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder: scores are one file, such as" in capsys.readouterr().err


def test_the_first_seed_is_the_sets_and_no_left_over_ones(tiny, outputs):
    base = outputs / "smoke"
    for name in ("0", "1-before"):
        (base / "surrogates" / "top" / name).mkdir()
        (base / "surrogates" / "top" / name / "record.json").write_text("{}")
    assert score.reader("smoke").seed == 0  # no report says which seeds the set has
    (base / "report").mkdir(exist_ok=True)
    (base / "report" / "record.json").write_text('{"parameters": {"seeds": [1]}}')
    assert score.reader("smoke").seed == 1
    (base / "report" / "record.json").write_text('{"parameters": {"seeds": [7]}}')  # of an earlier set
    assert score.reader("smoke").seed == 0


def test_surrogates_that_differ_from_their_record_are_refused(tiny, outputs, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    path = outputs / "smoke" / "surrogates" / "top" / "1" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["score", "smoke", str(tmp_path / "mine.h5")]) == 2
    assert "weights.safetensors is damaged or was changed: it differs from its record" in capsys.readouterr().err


def test_an_interrupted_scoring_goes_on_to_the_same_scores(tiny, tmp_path, monkeypatch):
    write_jets(tmp_path / "mine.h5", concatenate([tiny["gluon"][:300], tiny["top"][:220]]))
    asked, scored_by = [], surrogate.score

    def stopped_once(models, jets, *others):
        asked.append(len(jets))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return scored_by(models, jets, *others)

    monkeypatch.setattr(surrogate, "score", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    assert not (tmp_path / "scores.h5").exists()
    result = score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    assert asked == [500, 20, 20]
    assert {path.name for path in tmp_path.glob("scores*")} == {"scores.h5", "scores.json"}
    whole = score.jets(tmp_path / "mine.h5", "smoke", progress=lambda line: None)
    np.testing.assert_array_equal(result.llr, whole.llr)


def test_what_jets_are_compared_with_is_looked_for_before_they_are_scored(tiny, outputs, monkeypatch):
    monkeypatch.setattr(surrogate, "score", lambda *scored: pytest.fail("scored"))
    (outputs / "smoke" / "synthetic_jets" / "top" / "1" / "observables.csv").unlink()
    with pytest.raises(
        study.StudyError,
        match=r"observables\.csv is not stored here.*make redo PARAMS=smoke STEP=synth",
    ):
        score.jets(tiny["top"][:20], "smoke")


def test_scores_that_others_have_written_meanwhile_are_not_overwritten(tiny, tmp_path, monkeypatch):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    (tmp_path / "b").mkdir()
    write_jets(tmp_path / "b" / "mine.h5", tiny["top"][:3])
    locked = study.locked

    def after_the_others(folder):
        monkeypatch.setattr(study, "locked", locked)
        score.file(tmp_path / "b" / "mine.h5", tmp_path / "scores.h5", "smoke")
        return locked(folder)

    monkeypatch.setattr(study, "locked", after_the_others)
    with pytest.raises(study.StudyError, match=r"scores\.json is of other jets"):
        score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    assert json.loads((tmp_path / "scores.json").read_text())["jets"]["digest"] == digest(tmp_path / "b" / "mine.h5")


def test_no_scores_are_without_a_record(tiny, tmp_path, monkeypatch):
    """Wherever it is interrupted, the same scoring can go on."""
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    whole = score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    (tmp_path / "scores.h5").unlink()  # as if stopped between record and scores
    again = score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    np.testing.assert_array_equal(again.llr, whole.llr)
    write_json = score.write_json

    def stopped(path, record):
        write_json(path, record | {"digest": "of scores that are rounded differently"})
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "write_json", stopped)
    with pytest.raises(KeyboardInterrupt):
        score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    monkeypatch.setattr(score, "write_json", write_json)
    np.testing.assert_array_equal(score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke").llr, whole.llr)


def test_what_others_keep_beside_the_chunks_stays(tiny, tmp_path):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    other = tmp_path / "scores-chunks" / "notes.txt"
    other.parent.mkdir()
    other.write_text("mine")
    score.file(tmp_path / "mine.h5", tmp_path / "scores.h5", "smoke")
    assert other.read_text() == "mine" and len(list(other.parent.iterdir())) == 2  # and the lock


def test_surrogates_of_another_parameter_set_are_said_to_be_such(tiny, tmp_path, capsys):
    write_jets(tmp_path / "mine.h5", tiny["gluon"][:3])
    assert main(["score", "smoke", str(tmp_path / "mine.h5")]) == 0
    assert (
        "jets was made with other parameters than smoke has now: " in capsys.readouterr().err
    )  # the fixture's are smaller


@pytest.mark.parametrize("content, said", [(b"no HDF5", "not a complete HDF5 file"), (None, "no such file")])
def test_what_is_wrong_with_the_file_is_said(tiny, tmp_path, capsys, content, said):
    if content:
        (tmp_path / "mine.h5").write_bytes(content)
    assert main(["score", "smoke", str(tmp_path / "mine.h5")]) == 2
    assert said in capsys.readouterr().err


def test_without_surrogates_the_command_that_makes_them_is_said(outputs):
    with pytest.raises(study.StudyError, match="make study PARAMS=quick"):
        score.reader("quick")
