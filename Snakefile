"""The order of the notebooks: each rule is one notebook for one part, each output the record that proves it done.

Run by `make study` with the outputs' folder as working directory. A record is the only declared output: Snakemake
deletes the outputs of a rule that fails, and nothing that was computed shall be lost. `ancient` keeps file times
out of it: `jetstudy.study` knows by parameters and digests what is stale.
"""

import os
import shlex
import sys

from jetstudy import study
from jetstudy.sources import pair

PARAMS = os.environ["JETSTUDY_PARAMS"]
SET = study.load(PARAMS)
CLASSES, SEEDS, TAGGERS, SAMPLES = (SET[axis] for axis in ("classes", "seeds", "taggers", "samples"))
LEARNERS, SEARCHED = SET["learners"], SET["searched"]  # these may be empty: then there is no such job
STEP = f"{shlex.quote(sys.executable)} -m jetstudy step {shlex.quote(PARAMS)}"


def share(jobs):
    """Threads of each of so many jobs that can run at once; there may be none."""
    return max(1, workflow.cores // max(1, jobs))


def trained_before(wildcards):
    """The class whose part trains the network of this class too, if it is another one's."""
    first = pair(CLASSES, wildcards.label)[0]
    return [first] if SET["conditional"] and wildcards.label != first else []


def compared(wildcards):
    """What the limit of a seed is made from: the first one's includes the null."""
    steps = ("04_likelihoods", "05_taggers")
    parts = [part for part in study.parts(SET) if part.notebook in steps and str(part.seed) == wildcards.seed]
    return [f"{part}/record.json" for part in parts]


def trained_on(wildcards):
    """The classes whose jets a tagger of this sample tells apart."""
    return CLASSES[2:] if wildcards.sample == "null" else CLASSES[:2]


rule report:
    input:
        ancient(expand("limit/{seed}/record.json", seed=SEEDS)),
        ancient(expand("learning/{learner}/{seed}/record.json", learner=LEARNERS, seed=SEEDS)),
        ancient(expand("search/{tagger}/{seed}/record.json", tagger=SEARCHED, seed=SEEDS)),
    output: "report/record.json",
    log: "report/notebook.ipynb",
    shell: "{STEP} 09_report"


rule jets:
    output: "jets/record.json",
    log: "jets/notebook.ipynb",
    threads: workflow.cores
    shell: "{STEP} 01_jets --threads {threads}"


rule surrogate:
    input:
        ancient("jets/record.json"),
        ancient(lambda w: expand("surrogates/{label}/{seed}/record.json", label=trained_before(w), seed=w.seed)),
    output: "surrogates/{label}/{seed}/record.json",
    log: "surrogates/{label}/{seed}/notebook.ipynb",
    priority: 3  # the longest chain of steps goes first: jets, their likelihoods, what is learned from them
    threads: share(len(CLASSES[:: 2 if SET["conditional"] else 1]) * len(SEEDS))
    shell: "{STEP} 02_surrogates --classes {wildcards.label:q} --seeds {wildcards.seed} --threads {threads}"


rule synthetic_jets:
    input: ancient("surrogates/{label}/{seed}/record.json"),
    output: "synthetic_jets/{label}/{seed}/record.json",
    log: "synthetic_jets/{label}/{seed}/notebook.ipynb",
    priority: 3
    threads: share(len(CLASSES) * len(SEEDS))
    shell: "{STEP} 03_synthetic_jets --classes {wildcards.label:q} --seeds {wildcards.seed} --threads {threads}"


rule likelihoods:
    input:
        ancient("synthetic_jets/{label}/{seed}/record.json"),
        ancient(lambda w: expand("surrogates/{label}/{seed}/record.json", label=pair(CLASSES, w.label), seed=w.seed)),
    output: "likelihoods/{label}/{seed}/record.json",
    log: "likelihoods/{label}/{seed}/notebook.ipynb",
    priority: 2
    threads: share(len(CLASSES) * len(SEEDS))
    shell: "{STEP} 04_likelihoods --classes {wildcards.label:q} --seeds {wildcards.seed} --threads {threads}"


rule tagger:
    input: ancient(lambda w: expand("synthetic_jets/{label}/{seed}/record.json", label=trained_on(w), seed=w.seed)),
    output: "taggers/{tagger}/{sample}/{seed}/record.json",
    log: "taggers/{tagger}/{sample}/{seed}/notebook.ipynb",
    threads: share(len(TAGGERS) * len(SAMPLES) * len(SEEDS))
    shell:
        "{STEP} 05_taggers --taggers {wildcards.tagger:q} --samples {wildcards.sample:q} --seeds {wildcards.seed} "
        "--threads {threads}"


rule limit:
    input: ancient(compared),
    output: "limit/{seed}/record.json",
    log: "limit/{seed}/notebook.ipynb",
    threads: share(len(SEEDS))
    shell: "{STEP} 06_limit --seeds {wildcards.seed} --threads {threads}"


rule learning:
    input: ancient(expand("likelihoods/{label}/{{seed}}/record.json", label=CLASSES[:2])),
    output: "learning/{learner}/{seed}/record.json",
    log: "learning/{learner}/{seed}/notebook.ipynb",
    priority: 1
    threads: share(len(LEARNERS) * len(SEEDS))
    shell: "{STEP} 07_learning --learners {wildcards.learner:q} --seeds {wildcards.seed} --threads {threads}"


rule search:
    input: ancient(expand("likelihoods/{label}/{{seed}}/record.json", label=CLASSES[:2])),
    output: "search/{tagger}/{seed}/record.json",
    log: "search/{tagger}/{seed}/notebook.ipynb",
    threads: share(len(SEARCHED) * len(SEEDS))
    shell: "{STEP} 08_search --searched {wildcards.tagger:q} --seeds {wildcards.seed} --threads {threads}"
