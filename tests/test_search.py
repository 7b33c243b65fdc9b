import json
import math
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from jetstudy import figures, search
from jetstudy.features import Features
from jetstudy.taggers import build, find

SPACE = {"rate": (1e-4, 1e-1), "blocks": [1, 2, 4], "widths": [[8, 8], [16]]}
QUIET = {"progress": lambda text: None}


def bowl(settings, trial):
    """Smallest, 0, at a rate of 1e-2 with two blocks."""
    return math.log10(settings["rate"] / 1e-2) ** 2 + abs(settings["blocks"] - 2)


def test_a_search_comes_near_the_minimum(tmp_path):
    table = search.search(bowl, SPACE, 30, 1, tmp_path / "journal", **QUIET)
    assert table["trial"].tolist() == list(range(1, 31)) and set(table["state"]) == {"complete"}
    best = table.loc[table["loss"].idxmin()]
    assert best["loss"] < 0.1 and best["blocks"] == 2
    for row in table.to_dict("records"):
        assert row["loss"] == bowl(row, 0) and 1e-4 <= row["rate"] <= 1e-1
        assert row["blocks"] in SPACE["blocks"] and row["widths"] in SPACE["widths"]


def test_a_search_that_was_interrupted_goes_on_to_the_trials_of_one_that_was_not(tmp_path):
    whole = search.search(bowl, SPACE, 14, 1, tmp_path / "whole", **QUIET)
    seen = []

    def stumbling(settings, trial):
        seen.append((trial, settings))
        if len(seen) in (5, 13):
            raise KeyboardInterrupt
        return bowl(settings, trial)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search.search(stumbling, SPACE, 14, 1, tmp_path / "journal", **QUIET)
    resumed = search.search(stumbling, SPACE, 14, 1, tmp_path / "journal", **QUIET)
    pd.testing.assert_frame_equal(resumed, whole)
    assert len(seen) == 16 and seen[4] == seen[5] and seen[12] == seen[13]


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_journal_that_ends_within_a_line_goes_on_from_the_line_before(tmp_path, lost):
    whole = search.search(bowl, SPACE, 6, 1, tmp_path / "journal", **QUIET)
    content = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(content[:-lost])
    pd.testing.assert_frame_equal(search.search(bowl, SPACE, 6, 1, tmp_path / "journal", **QUIET), whole)


def test_a_finished_search_runs_nothing_and_a_longer_one_only_what_is_missing(tmp_path):
    first = search.search(bowl, SPACE, 3, 1, tmp_path / "journal", **QUIET)
    asked = []

    def counted(settings, trial):
        asked.append(trial)
        return bowl(settings, trial)

    again = search.search(counted, SPACE, 3, 1, tmp_path / "journal", **QUIET)
    pd.testing.assert_frame_equal(first, again)
    longer = search.search(counted, SPACE, 5, 1, tmp_path / "journal", **QUIET)
    assert asked == [4, 5]
    pd.testing.assert_frame_equal(longer[:3], first)


def test_seeds_make_searches_apart(tmp_path):
    one, other = (search.search(bowl, SPACE, 2, seed, tmp_path / str(seed), **QUIET) for seed in (1, 2**40))
    assert one["rate"].tolist() != other["rate"].tolist()


def test_a_training_that_diverges_is_a_trial_without_a_loss(tmp_path):
    said = []

    def diverging(settings, trial):
        if trial == 2:
            raise FloatingPointError("training loss is nan at step 3")
        return bowl(settings, trial) if trial < 4 else math.nan

    table = search.search(diverging, SPACE, 4, 1, tmp_path / "journal", said.append)
    assert table["state"].tolist() == ["complete", "diverged", "complete", "diverged"]
    assert table["loss"].isna().tolist() == [False, True, False, True]
    assert "trial 2 of 4" in said[1] and "nan at step 3" in said[1] and "the loss is nan" in said[3]
    search.search(diverging, SPACE, 4, 1, tmp_path / "journal", said.append)
    assert len(said) == 4


def test_a_search_in_which_everything_diverges_says_so_now_and_later(tmp_path):
    def diverging(settings, trial):
        raise FloatingPointError("training loss is nan at step 3")

    for _ in range(2):
        with pytest.raises(FloatingPointError, match="all 2 trials diverged"):
            search.search(diverging, SPACE, 2, 1, tmp_path / "journal", **QUIET)


def test_the_best_trial_has_the_least_loss_and_the_default_stands_before_all():
    rows = [{"trial": 1, "state": "diverged", "loss": math.nan, "rate": 0.1, "blocks": 4}]
    rows += [{"trial": k, "state": "complete", "loss": 2.0 - k % 2, "rate": 0.01 * k, "blocks": k} for k in (2, 3)]
    trials = pd.DataFrame(rows)
    assert search.best(trials) == rows[2]
    space = {"rate": (1e-3, 1.0), "blocks": [1, 2]}
    table = search.with_default(trials, 1.5, {"rate": 2e-3, "batch": 64}, space)
    first, *others = table.to_dict("records")
    assert pd.isna(first.pop("blocks")) and first == {"trial": 0, "state": "default", "loss": 1.5, "rate": 2e-3}
    assert pd.DataFrame(others)[["trial", "rate"]].equals(trials[["trial", "rate"]])


def test_settings_are_those_of_the_training_and_of_the_class():
    settings = {"blocks": 2, "batch": 64, "rate": 1e-3, "widths": [8]}
    assert search.parted(settings) == ({"rate": 1e-3, "batch": 64}, {"blocks": 2, "widths": [8]})


def test_the_journal_is_lines_of_json(tmp_path):
    search.search(bowl, SPACE, 2, 1, tmp_path / "journal", **QUIET)
    lines = (tmp_path / "journal").read_text().splitlines()
    assert len(lines) > 5 and all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize(
    "domain, complaint", [((0.0, 1.0), "x: .* no range"), ((2.0, 1.0), "no range"), ([], "x: no ch")]
)
def test_a_space_that_is_none_is_refused(domain, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        search.search(bowl, {"x": domain}, 1, 1, tmp_path / "journal", **QUIET)


@pytest.mark.parametrize("name", ["pfn", "efn", "transformer", "transformer-8", "lorentznet", "gru"])
def test_a_tagger_can_be_built_with_all_that_its_space_holds(name):
    space = search.space(find(name), 64)
    assert space["batch"] == [32, 64, 128] and list(space)[:3] == list(search.RECIPE)
    own = {setting: choices for setting, choices in space.items() if setting not in search.RECIPE}
    assert (not own) == (name == "gru")
    for setting, choices in own.items():
        for choice in choices:
            built = build(name, Features((0.0, 0.0, -4.0), (0.1, 0.1, 1.0)), "small", **{setting: choice})
            assert built.settings[setting] == choice


def trials():
    columns = {"trial": [0, 1, 2, 3], "state": ["default", "complete", "diverged", "complete"]}
    columns |= {
        "loss": [0.31, 0.35, math.nan, 0.30],
        "rate": [1e-3, 1e-2, 2e-2, 2e-3],
        "weight_decay": [0, 0.1, 0.01, 0.1],
    }
    return pd.DataFrame(columns | {"batch": [64, 32, 64, 128], "jet": [[8], [8, 8], [8], [8]]})


def test_the_figure_of_a_search_shows_the_best_so_far_and_every_setting():
    figure, alt = figures.search(trials())
    above, *below = figure.axes
    assert [axes.get_xlabel() for axes in below] == ["rate", "weight decay", "batch", "jet"]
    (best,) = [line for line in above.get_lines() if line.get_label() == "best so far"]
    assert best.get_ydata().tolist() == [0.35, 0.35, 0.30]
    assert "best 0.3000, default settings 0.3100; 1 diverged" in alt
    assert [text.get_text() for text in below[3].get_xticklabels()] == ["8", "8-8"]
    assert figures.search(pd.read_csv(StringIO(trials().to_csv(index=False))))[1] == alt


def test_a_setting_that_is_searched_in_a_range_has_an_axis_and_a_missing_default_no_place():
    table = trials().assign(scale=[1.0, 0.3, 4.1, 2.2], depth=[math.nan, 2, 4, 2])
    scale, depth = figures.search(table, ranges=["rate", "weight_decay", "scale"])[0].axes[5:]
    assert scale.get_xscale() == "log" and depth.get_xscale() == "linear"
    assert [text.get_text() for text in depth.get_xticklabels()] == ["2.0", "4.0"]
    assert [np.isfinite(line.get_xdata()).sum() for line in depth.get_lines()] == [3, 0]


def test_ranges_are_told_from_choices_and_defaults_are_those_of_the_class():
    assert search.ranges(SPACE) == ["rate"]

    class Own:
        def __init__(self, features, depth=2, scale=0.5):
            pass

    assert search.defaults(Own) == {"depth": 2, "scale": 0.5}
