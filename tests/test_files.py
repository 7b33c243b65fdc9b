import hashlib
import json
import os

import h5py
import numpy as np
import pytest

from jetstudy.files import digest, in_chunks, named_after, read_arrays, replacing, write_json


def test_a_file_appears_with_all_its_content(tmp_path):
    path = tmp_path / "new.txt"
    with replacing(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        unfinished.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["new.txt"]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with replacing(str(path)) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["data.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_body_leaves_the_old_file_and_no_litter(tmp_path, error):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with pytest.raises(error, match="disk full"), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise error("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["data.txt"]


def test_a_body_that_writes_nothing_leaves_the_old_file_and_is_an_error(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"data\.txt"), replacing(path):
        pass
    assert path.read_text() == "old"


def test_the_temporary_name_is_on_the_same_file_system_and_hidden(tmp_path):
    with replacing(tmp_path / "data.txt") as unfinished:
        assert unfinished.parent == tmp_path and unfinished.name.startswith(".")
        unfinished.touch()


def test_json_comes_back_as_it_was_written(tmp_path):
    content = {"a": [1, 2.5, None, True], "b": {"c": "η"}}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == content
    assert (tmp_path / "x.json").read_text().endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_it_cannot_hold_and_leaves_the_old_file(tmp_path, number):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(path, {"a": [number]})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_the_digest_is_sha_256_of_the_content(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert digest(path) == hashlib.sha256(content).hexdigest()


def test_arrays_made_in_chunks_go_on_where_they_were_interrupted(tmp_path):
    made = []

    def compute(start, stop):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((start, stop))
        return {"x": np.arange(start, stop), "y": np.zeros((stop - start, 2))}

    with pytest.raises(KeyboardInterrupt):
        in_chunks(tmp_path / "chunks", 10, 4, compute)
    made, before = [], made
    arrays = in_chunks(tmp_path / "chunks", 10, 4, compute)
    assert (before, made) == ([(0, 4), (4, 8)], [(8, 10)])
    assert arrays["x"].tolist() == list(range(10)) and arrays["y"].shape == (10, 2)
    assert not list(tmp_path.rglob(".*.part"))


def test_a_damaged_chunk_is_made_again(tmp_path):
    """Wherever a bit of it is another one, and wherever it ends."""

    def compute(start, stop):
        return {"x": np.arange(start, stop) + 0.25}

    whole = in_chunks(tmp_path / "chunks", 20, 10, compute)["x"]
    path = tmp_path / "chunks" / "10-20.h5"
    content = bytearray(path.read_bytes())
    for place in range(len(content)):
        for damaged in (content[:place], flipped(content, place)):
            path.write_bytes(damaged)
            assert in_chunks(tmp_path / "chunks", 20, 10, compute)["x"].tolist() == whole.tolist()


def flipped(content, place):
    """The content with another bit at a place."""
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("item", ["group", "link", "empty"])
def test_what_is_no_data_set_is_refused_by_name(tmp_path, item):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        if item == "group":
            file.create_group("odd")
        elif item == "empty":
            file["odd"] = h5py.Empty("f")
        else:
            file["odd"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ValueError, match=r"a\.h5: odd is not a data set"):
        read_arrays(path)


def test_a_name_is_of_the_content_whatever_the_order_of_its_keys():
    assert named_after({"a": 1, "b": [2]}) == named_after({"b": [2], "a": 1}) != named_after({"a": 1, "b": [3]})
    assert named_after([1]) == hashlib.sha256(b"[1]").hexdigest()[:8]
