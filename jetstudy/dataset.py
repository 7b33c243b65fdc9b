"""Jets with a known best tagger, for people who build taggers without this package.

One HDF5 file in JetNet's layout holds synthetic jets of both classes, their labels and splits, and each test jet's
log p under both surrogates: its log-likelihood ratio is the optimal tagger on them.
"""

import shutil
from pathlib import Path

import h5py
import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jetstudy import limit, score, study
from jetstudy.files import digest, in_chunks, named_after, random_seed, read_arrays, replacing, write_json
from jetstudy.jets import SPLITS, Jets, split
from jetstudy.study import StudyError
from jetstudy.surrogate import Surrogate
from jetstudy.surrogate import score as log_prob
from jetstudy.training import on_device

CHUNK = 500  # jets that are lost at most when a run is stopped
TEMPLATES = Path(__file__).parent / "page"


def write(folder: Path, parameter_set: str, n: int, seed: int | None = None, progress=print) -> Path:
    """Write ``jets.h5``, ``record.json`` and ``README.md`` into ``folder``: n jets per class of a set's surrogates.

    n is a multiple of ten, 20 at the least, so that the splits (by stored index modulo ten) hold equally many jets of
    both classes. What was drawn before an interruption is kept and gone on from, and what is finished is left as it is.
    Returns the path of ``jets.h5``.

    Raises StudyError for another n, for surrogates that are not there, for a folder with such files of something else,
    and while another process writes to it.
    """
    if n < 20 or n % 10:
        raise StudyError(f"n is {n}: the number of jets per class has to be a multiple of ten, and 20 at the least")
    reader = score.reader(parameter_set, seed, "dataset")
    models, seed = score.surrogates(reader, on_device("auto")), reader.seed
    about = {"parameter_set": parameter_set, "seed": seed, "jets_a_class": n, "inputs": reader.inputs}
    record = study.read_record(folder) or {}
    _check_free(folder, record, about)
    jets = folder / "jets.h5"
    if about.items() <= record.items() and jets.exists() and digest(jets) == record["digest"]:
        progress(f"dataset: {jets} is there already")
        return jets
    with study.locked(folder):
        # Chunks are kept under a name that says what they depend on, which the number of jets is not part of.
        chunks = folder / f"chunks-{named_after([reader.inputs, seed, CHUNK])}"
        _check_no_larger(chunks, n)
        drawn = [_class(chunks, models, k, n, seed, progress) for k in range(2)]
        _assemble(folder / "jets.h5", drawn, models)
        merit = _limit(folder / "jets.h5", seed)
        pages = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)
        sizes = {name: 2 * n * len(residues) // 10 for name, residues in SPLITS.items()}
        text = pages.get_template("dataset.md.j2").render(
            about=about,
            sizes=sizes,
            limit=merit,
            n_max=len(models[0].p_count) - 1,
            classes=[model.label for model in models],
            kept=models[0].acceptance.rate if models[0].acceptance else 1,
        )
        with replacing(folder / "README.md") as unfinished:
            unfinished.write_text(text)
        write_json(
            folder / "record.json", about | {"digest": digest(folder / "jets.h5"), "limit": merit} | study.made_with()
        )
        shutil.rmtree(chunks)
    progress(f"dataset: {2 * n} jets in {folder / 'jets.h5'}")
    return folder / "jets.h5"


def _check_free(folder: Path, record: dict, about: dict) -> None:
    """StudyError if the folder has files that would be written over: no dataset's, or of another one."""
    names = ("jets.h5", "README.md", study.RECORD)
    there = [name for name in names if (folder / name).exists()]
    if there and "jets_a_class" not in record and not any(folder.glob("chunks-*")):  # of one that was interrupted
        raise StudyError(f"{folder} has {', '.join(there)} of something else: choose another folder")
    named = {"inputs": "surrogates of other weights", "jets_a_class": "{} jets per class"}
    for key in about if "jets_a_class" in record else ():
        if record.get(key) != about[key]:
            other = named.get(key, f"surrogates of {key} {{}}").format(record.get(key))
            raise StudyError(f"{folder} has a dataset of {other}: choose another folder, or remove it")


def _check_no_larger(chunks: Path, n: int) -> None:
    """StudyError if more than n jets have been drawn already: they would be removed with the chunks of these."""
    drawn = max((int(path.stem.partition("-")[2]) for path in chunks.glob("*/*-*.h5")), default=0)
    if drawn > n:
        raise StudyError(
            f"{chunks.parent} has {drawn} jets of a larger dataset that was interrupted: go on with that one, choose "
            f"another folder for {n}, or remove {chunks.name}"
        )


def _class(chunks: Path, models: list[Surrogate], k: int, n: int, seed: int, progress) -> dict[str, np.ndarray]:
    """n jets of the k-th class, chunk by chunk: particles, mask, and log p (n, 2), which only test jets have."""
    label = models[k].label

    def draw(start: int, stop: int) -> dict[str, np.ndarray]:
        key = f"dataset/{label}/{seed}/{start}"  # other jets than the study's own
        generator = torch.Generator().manual_seed(random_seed(key))
        arrays = _chunk(models, k, stop - start, generator, f"dataset: {label} jets from {start}")
        progress(f"dataset: {label} jets to {stop} of {n}")
        return arrays

    return in_chunks(chunks / label, n, CHUNK, draw)


def _chunk(models: list[Surrogate], k: int, size: int, generator: torch.Generator, what: str) -> dict[str, np.ndarray]:
    jets = models[k].sample(size, generator, study.progress(f"{what}, drawn", size))
    test = split(size, "test")
    values = np.full((size, 2), np.nan)
    values[test] = log_prob(models, jets[test], generator, study.progress(f"{what}, scored", 2 * len(test)))
    return {"particles": jets.particles, "mask": jets.mask, "features": jets.features, "log_prob": values}


def _assemble(path: Path, drawn: list[dict[str, np.ndarray]], models: list[Surrogate]) -> None:
    """The file: all background jets, then all signal jets."""
    n = len(drawn[0]["mask"])
    both = {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}
    jets = Jets(both["particles"], both["mask"], both["features"])
    names = np.empty(2 * n, dtype=np.uint8)
    for code, name in enumerate(SPLITS):
        names[split(2 * n, name)] = code
    with replacing(path) as unfinished, h5py.File(unfinished, "w") as file:
        file["particle_features"] = np.append(jets.particles, jets.mask[..., None], axis=-1)
        file["jet_features"] = jets.features
        file["label"] = np.repeat(np.arange(2, dtype=np.uint8), n)
        file["split"] = names
        for k, model in enumerate(models):
            file[f"log_prob_{model.label}"] = both["log_prob"][:, k]
        file["llr"] = limit.log_ratio(both["log_prob"])
        file.attrs["label_names"] = [model.label for model in models]
        file.attrs["split_names"] = list(SPLITS)


def _limit(path: Path, seed: int) -> list[dict]:
    """The optimal tagger's figures of merit on the test jets, with uncertainties, as in ``limit.gap``."""
    content = read_arrays(path)
    test = content["split"] == list(SPLITS).index("test")
    llr, label = content["llr"][test], content["label"][test]
    table = limit.gap({}, label, np.random.default_rng(seed), llr)[["metric", "value", "uncertainty", "survivors"]]
    table = table[table["metric"].str.match("AUC|rejection|accuracy|cross-entropy")]
    return [
        {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]
