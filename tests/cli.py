"""The command line as users run it, in a process of its own."""

import os
import subprocess
import sys

import yaml

from jetstudy import study

TOY = study.ROOT / "tests" / "toy.yaml"
PUBLISHED = study.ROOT / "outputs" / "reference"


def jetstudy(outputs, *arguments):
    """`python -m jetstudy` with results in ``outputs``; what it printed is in stdout and stderr."""
    command = [sys.executable, "-m", "jetstudy", *map(str, arguments)]
    environment = os.environ | {"JETSTUDY_OUTPUTS": str(outputs)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def toy_set(folder, **changes):
    """The path of the toy's parameter set, written to ``folder`` with some values changed."""
    values = yaml.safe_load(TOY.read_text())
    assert set(changes) <= set(values)
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path
