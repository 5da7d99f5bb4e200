"""Runs the numeric tests as other processors would: no bound may hold by the rounding of one of them.

    make test-kernels                                        # classifiers, mrcnn and attacks, without the slow tests
    make test-kernels EXTRA="--settings oldest -- tests/classifiers/test_port_parity.py -x"

oneDNN, MKL, OpenBLAS and XLA choose their kernels by the processor, and environment variables let them pass over the
newer instructions. Before its tests each setting shows the bits of one convolution and one matrix product in TensorFlow
and in torch: where they are the default's, the setting does nothing on this processor. Ends with 1 where a test fails,
or where all settings compute the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMERIC = ("tests/classifiers", "tests/mrcnn", "tests/attacks")
MARKS = "not slow and not photos and not gpu"


def threads(torch: int, tensorflow: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(torch), "TF_NUM_INTRAOP_THREADS": str(tensorflow)}


SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "oldest": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2",
        **threads(1, 1),
    },
    "sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41", **threads(2, 2)},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", **threads(1, 2)},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", **threads(2, 1)},
    "eigen": {"TF_ENABLE_ONEDNN_OPTS": "0", **threads(2, 2)},
}

PROBE = """
import hashlib
import numpy as np, tensorflow as tf, torch
rng = np.random.default_rng(0)
images, kernel = rng.random((2, 33, 33, 64), np.float32), rng.random((3, 3, 64, 48), np.float32)
rows = rng.random((300, 300), np.float32)
nchw, oihw = (torch.from_numpy(x.copy()) for x in (images.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)))
results = (
    tf.nn.conv2d(images, kernel, 1, "VALID").numpy(),
    tf.matmul(rows, rows).numpy(),
    torch.nn.functional.conv2d(nchw, oihw).numpy(),
    (torch.from_numpy(rows) @ torch.from_numpy(rows)).numpy(),
)
print(*(hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:8] for x in results))
"""


def environment(name: str) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", **SETTINGS[name]}


def bits(name: str) -> str:
    """Hashes of four results under a setting."""
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, env=environment(name), cwd=ROOT, check=True, text=True, capture_output=True)
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("pytest", nargs="*", help="after --: paths and options for pytest instead of the numeric tests")
    arguments = parser.parse_args()
    default, different, failed = bits("default"), False, []
    for name in arguments.settings:
        found = bits(name)
        different |= found != default
        variables = " ".join(f"{key}={value}" for key, value in SETTINGS[name].items())
        print(f"\n{name}: {variables or '(as it is)'}\n{found}", end="", flush=True)
        print("" if name == "default" or found != default else " (the default's)", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", MARKS, *(arguments.pytest or NUMERIC)]
        if subprocess.run(command, env=environment(name), cwd=ROOT, check=False).returncode:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    untried = not different and set(arguments.settings) != {"default"}
    if untried:
        print("no setting computed other bits than the default: no other kernels were tried")
    return int(bool(failed) or untried)


if __name__ == "__main__":
    sys.exit(main())
