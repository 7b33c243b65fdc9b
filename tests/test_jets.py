import os
import re

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstudy.files import digest
from jetstudy.jets import Jets, arrange, concatenate, read_jets, select, smear, split, with_density, write_jets
from jetstudy.kinematics import momentum_closure


def draw(seed=0, n=20, n_max=6):
    """Jets with 1 to n_max particles; jet features count up, so that a jet can be told from another."""
    rng = np.random.default_rng(seed)
    mask = np.arange(n_max) < rng.integers(1, n_max + 1, (n, 1))
    particles = np.concatenate([0.2 * rng.standard_normal((n, n_max, 2)), rng.random((n, n_max, 1)) + 0.01], -1)
    count = mask.sum(1)
    return arrange(particles, mask, np.stack([1000 + np.arange(n), 0 * count, 100 + count, count], axis=1))


def complete(n, n_max, seed=0):
    """n jets of n_max particles that are all their constituents: the momenta close, in float32."""
    rng = np.random.default_rng(seed)
    momentum = rng.random((n, n_max)) * np.exp(0.3j * rng.standard_normal((n, n_max)))
    momentum /= momentum.sum(axis=1, keepdims=True)
    particles = np.stack([rng.standard_normal((n, n_max)), np.angle(momentum), np.abs(momentum)], axis=-1)
    features = np.tile([1000.0, 0.0, 100.0, n_max], (n, 1))
    return arrange(particles, np.ones((n, n_max), bool), features)


def assert_equal(one, other):
    for name in ("particles", "mask", "features"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


def write(path, particles, features=None, **others):
    """An HDF5 file with these data sets, the jet features ones by default."""
    with h5py.File(path, "w") as file:
        file["particle_features"] = particles
        file["jet_features"] = np.ones((len(particles), 4)) if features is None else features
        for name, value in others.items():
            file[name] = value
    return path


# In memory


def test_arrange_sorts_by_falling_ptrel_with_padding_last_and_zero():
    particles = np.array([[[1, 1, 0.1], [2, 2, 9.0], [3, 3, 0.5], [4, 4, 0.3]]])
    jets = arrange(particles, [[True, False, True, True]], np.ones((1, 4)))
    np.testing.assert_allclose(jets.particles[0], [[3, 3, 0.5], [4, 4, 0.3], [1, 1, 0.1], [0, 0, 0]], rtol=1e-7)
    assert jets.mask.tolist() == [[True, True, True, False]]
    assert (jets.particles.dtype, jets.mask.dtype, jets.features.dtype) == (np.float32, bool, np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e30, np.nan, np.inf, -1.0]))
def test_arrange_depends_neither_on_the_order_of_particles_nor_on_padding(seed, content):
    jets = draw(seed)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(6), (20, 1)), axis=1)
    particles = np.where(jets.mask[..., None], jets.particles, np.float32(content))
    particles = np.take_along_axis(particles, order[..., None], axis=1)
    assert_equal(arrange(particles, np.take_along_axis(jets.mask, order, axis=1), jets.features), jets)


def test_jets_are_picked_by_index_slice_or_condition():
    jets = draw()
    picked = jets[np.array([3, 1])]
    assert picked.features[:, 0].tolist() == [1003, 1001]
    assert_equal(jets[2:5], jets[np.array([2, 3, 4])])
    assert_equal(jets[jets.count == 2], jets[np.flatnonzero(jets.count == 2)])
    assert (len(jets), len(picked), jets.n_max) == (20, 2, 6)


def test_properties_are_those_of_the_particles_kept():
    jets = arrange([[[0.3, 0.0, 0.5], [-0.1, 0.0, 0.25], [9, 9, 9]]], [[True, True, False]], [[1000, 0, 170, 40]])
    assert jets.count.tolist() == [2]
    assert jets.ptrel_sum.tolist() == [0.75]
    assert jets.mass.item() == pytest.approx(2 * np.sqrt(0.125) * np.sinh(0.2), rel=1e-6)


def test_leading_keeps_the_largest_ptrel_and_pads_where_there_are_none():
    jets = draw()
    few = jets.leading(2)
    assert few.n_max == 2 and few.features is jets.features
    for jet in range(len(jets)):
        kept = np.sort(jets.particles[jet, jets.mask[jet], 2])[::-1][:2]
        np.testing.assert_array_equal(few.particles[jet, few.mask[jet], 2], kept)
    more = jets.leading(9)
    assert more.n_max == 9
    assert_equal(more.leading(6), jets)
    assert not more.mask[:, 6:].any() and not more.particles[:, 6:].any()


def test_concatenated_jets_stand_in_order_padded_to_the_widest():
    one, other = draw(1, n=3, n_max=4), draw(2, n=2, n_max=6)
    both = concatenate([one, other])
    assert both.n_max == 6
    assert_equal(both[:3], one.leading(6))
    assert_equal(both[3:], other)


@pytest.mark.parametrize("name", ["particles", "features"])
def test_arrays_that_do_not_fit_each_other_are_refused_by_name(name):
    jets = draw()
    arrays = {n: getattr(jets, n) for n in ("particles", "mask", "features")}
    arrays[name] = arrays[name][:-1]
    shape = re.escape(str(arrays[name].shape))
    with pytest.raises(ValueError, match=rf"Jets: {name} has shape {shape}"):
        Jets(**arrays)


# Splits


def test_splits_hold_every_jet_once_in_the_proportions_7_to_1_to_2():
    parts = {name: split(1000, name) for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 700, "validation": 100, "test": 200}
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1000))


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_a_jet_stays_in_its_split_when_the_sample_grows(n, more):
    for name in ("train", "validation", "test"):
        larger = split(n + more, name)
        np.testing.assert_array_equal(larger[larger < n], split(n, name))


def test_the_split_of_a_class_does_not_depend_on_which_classes_are_loaded(tmp_path):
    jets = draw(n=40)
    label = np.random.default_rng(0).integers(0, 3, 40)
    particles = np.append(jets.particles, jets.mask[..., None], axis=-1)
    both = write(tmp_path / "both.h5", particles, jets.features, label=label)
    alone = write(tmp_path / "alone.h5", particles[label == 1], jets.features[label == 1])
    together, single = read_jets(both, label=1), read_jets(alone)
    for name in ("train", "validation", "test"):
        assert_equal(together[split(len(together), name)], single[split(len(single), name)])


def test_an_unknown_split_is_refused():
    with pytest.raises(KeyError, match="split 'val' is unknown; there are train, validation, test"):
        split(10, "val")


# Which jets have a density


def test_complete_jets_are_dropped_and_the_fraction_is_told():
    jets = concatenate([complete(3, 4), complete(6, 7)])
    kept, dropped = with_density(jets, 4)
    assert len(kept) == 6 and kept.n_max == 4 and kept.mask.all()
    assert dropped == pytest.approx(3 / 9)
    np.testing.assert_array_equal(kept.particles, complete(6, 7).particles[:, :4])
    assert (momentum_closure(kept.particles, kept.mask) > 1e-3).all()


def test_the_number_of_constituents_of_the_whole_jet_decides_when_only_its_leading_particles_are_stored():
    jets = concatenate([complete(3, 4), complete(6, 7)]).leading(4)
    kept, dropped = with_density(jets, 4)
    assert len(kept) == 6 and dropped == pytest.approx(3 / 9)


def test_momenta_that_do_not_close_tell_a_jet_that_goes_on_where_its_file_stopped_counting():
    jets = concatenate([complete(3, 4), complete(6, 7)]).leading(4)
    jets.features[:, 3] = 4
    kept, dropped = with_density(jets, 4)
    assert len(kept) == 6 and dropped == pytest.approx(3 / 9)


def test_empty_slots_behind_those_of_the_file_change_nothing():
    jets = concatenate([complete(3, 4), complete(6, 7)]).leading(4)
    jets.features[:, 3] = 4
    kept, dropped = with_density(jets.leading(30), 4)
    assert len(kept) == 6 and dropped == pytest.approx(3 / 9)


def test_a_jet_with_exactly_n_max_particles_of_more_slots_is_complete():
    jets = concatenate([complete(3, 4), complete(6, 7)])
    jets.features[:3, 3] = 0  # not even a wrong count makes it more
    assert len(with_density(jets, 4)[0]) == 6


def test_a_jet_of_which_too_few_particles_are_stored_is_dropped():
    jets = concatenate([complete(2, 3), complete(2, 5)])
    jets.features[:2, 3] = 50
    kept, dropped = with_density(jets, 4)
    assert len(kept) == 2 and dropped == 0.5


def test_no_jet_with_a_density_is_an_error_with_the_numbers():
    message = r"none of 3 jets has more than n_max=4 particles.*constituents 4, of stored particles 4"
    with pytest.raises(ValueError, match=message):
        with_density(complete(3, 4), 4)
    with pytest.raises(ValueError, match=r"none of 3 jets has more than n_max=9"):
        with_density(complete(3, 4).leading(9), 9)
    with pytest.raises(ValueError, match=r"more than n_max=9 particles, 9 of them stored .* particles 4"):
        with_density(complete(3, 20).leading(4), 9)


def test_smearing_shifts_log_ptrel_by_a_normal_of_its_width():
    jets = complete(500, 20)
    smeared = smear(jets, 0.05, np.random.default_rng(1))
    assert (np.diff(smeared.particles[..., 2], axis=1) <= 0).all()
    assert smeared.features is not None and (smeared.features == jets.features).all()
    # Angles are untouched, so they tell which particle is which.
    old, new = (np.argsort(j.particles[..., 0], axis=1) for j in (jets, smeared))
    for column in (0, 1):
        np.testing.assert_array_equal(
            np.take_along_axis(jets.particles[..., column], old, 1),
            np.take_along_axis(smeared.particles[..., column], new, 1),
        )
    before, after = (
        np.log(np.take_along_axis(j.particles[..., 2], order, 1)) for j, order in ((jets, old), (smeared, new))
    )
    shift = after - before
    assert abs(shift.mean()) < 5 * 0.05 / np.sqrt(shift.size)
    assert shift.std() == pytest.approx(0.05, rel=5 / np.sqrt(2 * shift.size))
    # so a complete jet no longer lies on the surface
    assert np.median(momentum_closure(smeared.particles, smeared.mask)) > 1e-3


def test_smearing_leaves_padding_and_the_given_jets_alone_and_follows_its_generator():
    jets = draw()
    before = jets.particles.copy()
    smeared = smear(jets, 0.3, np.random.default_rng(1))
    np.testing.assert_array_equal(jets.particles, before)
    np.testing.assert_array_equal(smeared.mask, jets.mask)
    assert (smeared.particles[~smeared.mask] == 0).all()
    assert_equal(smear(jets, 0.3, np.random.default_rng(1)), smeared)
    assert (smear(jets, 0.3, np.random.default_rng(2)).particles != smeared.particles).any()


def test_jets_are_selected_so_that_they_have_a_density():
    rng, both = np.random.default_rng(0), concatenate([complete(3, 4), complete(6, 7)])
    with pytest.raises(ValueError, match="9 of 9 jets keep all their constituents"):
        select(both, 7, "all", 0.0, rng)
    seven = complete(6, 7)
    untold = Jets(seven.particles, seven.mask, 0 * seven.features)  # as many as are stored, whatever is said
    assert len(select(untold, 5, "all", 0.0, rng)[0]) == 6
    kept, dropped = select(both, 4, "leading", 0.0, rng)
    assert (len(kept), kept.n_max, dropped) == (6, 4, pytest.approx(1 / 3))
    smeared, dropped = select(both, 7, "all", 0.1, rng)
    assert len(smeared) == 9 and dropped == 0
    assert not np.isin(smeared.particles[smeared.mask][:, 2], both.particles[both.mask][:, 2]).any()
    with pytest.raises(ValueError, match="jets_kept is 'some'"):
        select(both, 4, "some", 0.0, rng)


# On disk


def test_jets_come_back_from_disk_as_they_were_with_attributes_beside(tmp_path):
    jets = draw()
    write_jets(tmp_path / "jets.h5", jets, seed=7, source="toy")
    assert_equal(read_jets(tmp_path / "jets.h5"), jets)
    with h5py.File(tmp_path / "jets.h5") as file:
        assert dict(file.attrs) == {"seed": 7, "source": "toy"}
        assert (file["particle_features"].shape, file["jet_features"].shape) == ((20, 6, 4), (20, 4))


def test_the_same_jets_make_the_same_file_to_the_last_bit(tmp_path):
    for name in ("a", "b"):
        write_jets(tmp_path / name, draw(), seed=7)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "jets.h5"
    write_jets(path, draw(1))
    with pytest.raises(TypeError):
        write_jets(path, draw(2), cannot_be_stored=object())
    assert_equal(read_jets(path), draw(1))
    assert os.listdir(tmp_path) == ["jets.h5"]


def test_the_first_n_jets_are_read(tmp_path):
    write_jets(tmp_path / "jets.h5", draw())
    assert_equal(read_jets(str(tmp_path / "jets.h5"), 3), draw()[:3])


def test_a_mask_column_decides_and_particles_may_stand_in_any_order(tmp_path):
    jets = draw()
    particles = np.append(jets.particles, jets.mask[..., None], axis=-1)
    particles[~jets.mask, :3] = -3.0  # padding may hold any number
    order = np.random.default_rng(0).permuted(np.tile(np.arange(6), (20, 1)), axis=1)
    path = write(tmp_path / "x", np.take_along_axis(particles, order[..., None], axis=1), jets.features)
    assert_equal(read_jets(path), jets)


def test_without_a_mask_particles_of_no_ptrel_are_padding(tmp_path):
    jets = draw()
    path = write(tmp_path / "x", jets.particles[:, ::-1].astype(float), jets.features.astype(float))
    assert_equal(read_jets(path), jets)


def test_further_jet_features_are_left_out(tmp_path):
    jets = draw()
    path = write(tmp_path / "x", jets.particles, np.append(jets.features, np.full((20, 2), np.nan), axis=1))
    assert_equal(read_jets(path), jets)


@pytest.mark.parametrize("n", [None, 1, 3])
def test_the_jets_of_one_label_are_read_in_their_order(tmp_path, n):
    jets, label = draw(), np.arange(20) % 3
    path = write(tmp_path / "x", jets.particles, jets.features, label=label)
    assert_equal(read_jets(path, n, label=2), jets[label == 2][:n])


# Bad input: each error names the file, the data set, the value and where it stands


def stored():
    """What `write_jets` puts into particle_features, to be spoiled."""
    jets = draw()
    return np.append(jets.particles, jets.mask[..., None], axis=-1)


def assert_refused(path, error, message, n=None, label=None):
    with pytest.raises(error) as caught:
        read_jets(path, n, label)
    assert f"{path}: {message}" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "none.h5", FileNotFoundError, "no such file")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 1000])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert_refused(path, OSError, "not a complete HDF5 file (")


@pytest.mark.parametrize("fraction", [0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path, fraction):
    path = tmp_path / "x.h5"
    write_jets(path, draw(n=500))
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    assert_refused(path, OSError, "not a complete HDF5 file (")


@pytest.mark.parametrize("name", ["particle_features", "jet_features", "label"])
def test_a_missing_data_set_is_refused_with_those_there_are(tmp_path, name):
    path = write(tmp_path / "x.h5", stored(), label=np.zeros(20))
    with h5py.File(path, "a") as file:
        del file[name]
        there = ", ".join(file)
    assert_refused(path, KeyError, f"data set {name} is missing; the file has {there}", label=0)


def test_a_group_in_the_place_of_a_data_set_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["particle_features/all"] = stored()
    assert_refused(path, KeyError, "particle_features is no data set")


def test_a_data_set_without_a_shape_and_a_link_to_nowhere_are_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["particle_features"] = h5py.Empty("f")
        file["jet_features"] = h5py.SoftLink("/nowhere")
    assert_refused(path, ValueError, "particle_features has shape None, not (n, N, 3 or 4)")
    with h5py.File(path, "a") as file:
        del file["particle_features"]
        file["particle_features"] = stored()
    assert_refused(path, KeyError, "jet_features is no data set, or a link to nowhere")


@pytest.mark.parametrize("shape", [(20, 6), (20, 6, 2), (20, 6, 5), (20, 0, 4), (20,)])
def test_particles_of_a_wrong_shape_are_refused(tmp_path, shape):
    path = write(tmp_path / "x.h5", np.ones(shape))
    assert_refused(path, ValueError, f"particle_features has shape {shape}, not (n, N, 3 or 4)")


@pytest.mark.parametrize("shape", [(20, 3), (19, 4), (20,), (20, 4, 1)])
def test_jet_features_of_a_wrong_shape_are_refused(tmp_path, shape):
    path = write(tmp_path / "x.h5", stored(), np.ones(shape))
    assert_refused(path, ValueError, f"jet_features has shape {shape}, not (20, 4 or more)")


@pytest.mark.parametrize("shape", [(19,), (20, 1)])
def test_labels_of_a_wrong_shape_are_refused(tmp_path, shape):
    path = write(tmp_path / "x.h5", stored(), label=np.zeros(shape))
    assert_refused(path, ValueError, f"label has shape {shape}, not (20,)", label=0)


def test_data_sets_that_are_not_numbers_are_refused(tmp_path):
    path = write(tmp_path / "x.h5", stored(), label=np.array([b"top"] * 20))
    assert_refused(path, ValueError, "label has type |S3, not numbers", label=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_particles_that_are_not_finite_numbers_are_refused(tmp_path, value):
    particles = stored()
    particles[5, 2, 1] = particles[7, 0, 0] = value
    path = write(tmp_path / "x.h5", particles)
    assert_refused(path, ValueError, f"particle_features[5, 2, 1] = {value}: not a finite number")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_jet_features_that_are_not_finite_numbers_are_refused(tmp_path, value):
    features = np.ones((20, 4))
    features[19, 2] = value
    path = write(tmp_path / "x.h5", stored(), features)
    assert_refused(path, ValueError, f"jet_features[19, 2] = {value}: not a finite number")


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        (0, 0.0, "jet_features (pt)[19] = 0.0: expected positive; the columns begin with pt, eta, mass, number of"),
        (3, 113.5, "jet_features (number of particles)[19] = 113.5: expected a whole number; the columns begin with"),
    ],
)
def test_jet_features_in_other_columns_are_refused(tmp_path, column, value, complaint):
    features = np.ones((20, 4))
    features[19, column] = value
    assert_refused(write(tmp_path / "x.h5", stored(), features), ValueError, complaint)


def test_a_number_too_large_for_float32_is_refused(tmp_path):
    particles = stored().astype(float)
    particles[5, 2, 1] = 1e300
    path = write(tmp_path / "x.h5", particles)
    assert_refused(path, ValueError, "particle_features[5, 2, 1] = inf: not a finite number")


@pytest.mark.parametrize("value", [0.0, -0.25])
def test_ptrel_that_is_not_positive_under_the_mask_is_refused(tmp_path, value):
    particles = stored()
    particles[4, 0, 2] = value
    path = write(tmp_path / "x.h5", particles)
    message = f"particle_features (ptrel)[4, 0] = {value}: not positive under the mask"
    assert_refused(path, ValueError, message)


def test_negative_ptrel_is_refused_where_there_is_no_mask(tmp_path):
    particles = stored()[..., :3]
    particles[4, 3, 2] = -0.25
    path = write(tmp_path / "x.h5", particles)
    assert_refused(path, ValueError, "particle_features (ptrel)[4, 3] = -0.25: negative")


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0])
def test_a_mask_that_is_neither_0_nor_1_is_refused(tmp_path, value):
    particles = stored()
    particles[6, 1, 3] = value
    path = write(tmp_path / "x.h5", particles)
    assert_refused(path, ValueError, f"particle_features (mask)[6, 1] = {value}: a mask is 0 or 1")


@pytest.mark.parametrize("columns", [3, 4])
def test_a_jet_without_particles_is_refused(tmp_path, columns):
    particles = stored()
    particles[6] = 0
    path = write(tmp_path / "x.h5", particles[..., :columns])
    assert_refused(path, ValueError, "particle_features (particles kept)[6] = 0: a jet without particles")


def test_the_place_is_that_in_the_file_also_among_jets_of_one_label(tmp_path):
    particles, label = stored(), np.arange(20) % 3
    particles[1, 0, 0] = particles[11, 2, 1] = np.nan
    path = write(tmp_path / "x.h5", particles, label=label)
    assert_refused(path, ValueError, "particle_features[11, 2, 1] = nan: not a finite number", label=2)
    assert len(read_jets(path, label=0)) == 7


def test_fewer_jets_than_asked_for_are_refused(tmp_path):
    path = write(tmp_path / "x.h5", stored(), label=np.arange(20) % 3)
    assert_refused(path, ValueError, "particle_features holds 20 jets, fewer than 21", n=21)
    assert_refused(path, ValueError, "particle_features holds 6 jets of label 2, fewer than 7", n=7, label=2)
    assert_refused(path, ValueError, "particle_features holds 0 jets of label 5, fewer than 1", label=5)


def test_a_file_without_jets_is_refused(tmp_path):
    path = write(tmp_path / "x.h5", np.zeros((0, 6, 4)))
    assert_refused(path, ValueError, "particle_features holds 0 jets, fewer than 1")


@pytest.mark.parametrize("n", [0, -1])
def test_asking_for_no_jets_is_refused(tmp_path, n):
    assert_refused(write(tmp_path / "x.h5", stored()), ValueError, f"asked for n={n} jets", n=n)
