"""Runs a graph on the ONNX Runtime of the interpreter that runs this file: by its path, with NumPy and nothing else.

    PYTHON oldest_program.py GRAPH FEEDS OUT [LIBRARY ...]

FEEDS holds ``<run>/<input>`` arrays, OUT takes ``<run>/<output>`` ones; no feeds: the graph is loaded only.
The last line on stdout is JSON: the version of ONNX Runtime, and why it failed if it did. Without arguments it
tells the version alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
import onnxruntime


def _run(graph: str, feeds: str, out: str, libraries: Sequence[str]) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is in the exception
    for library in libraries:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])
    given: dict[str, dict[str, np.ndarray]] = {}
    with np.load(feeds, allow_pickle=False) as arrays:
        for key in arrays.files:
            run, _, name = key.partition("/")
            given.setdefault(run, {})[name] = arrays[key]
    names = [output.name for output in session.get_outputs()]
    found = {
        f"{run}/{name}": output
        for run, inputs in given.items()
        for name, output in zip(names, session.run(None, inputs), strict=True)
    }
    np.savez(out, **found)


def _main(arguments: Sequence[str]) -> int:
    said = {"version": onnxruntime.__version__}
    try:
        if arguments:
            graph, feeds, out, *libraries = arguments
            _run(graph, feeds, out, libraries)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base; all are told
        said["error"] = " ".join(str(error).split())
    sys.stdout.write(json.dumps(said) + "\n")
    return int("error" in said)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
