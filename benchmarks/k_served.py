"""A worker's side of `turns.Worker`: requests come in as lines of JSON, answers go out so. Runs on CPython 3.7 too."""

import json
import os
import resource
import sys
import time


def peak_mb():
    """Peak resident memory of this process in MB."""
    try:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    except OSError:
        scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def serve(build):
    """Calls `build(settings)`, settings being the first line, and then what it returned on each further line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def say(value):
        answers.write(json.dumps(dict(value, peak_mb=peak_mb())) + "\n")
        answers.flush()

    start = time.time()
    answer = build(json.loads(sys.stdin.readline()))
    say({"built_seconds": time.time() - start})
    for line in iter(sys.stdin.readline, ""):
        say(answer(json.loads(line)))
