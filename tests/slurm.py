"""A real Slurm of four virtual nodes on this machine, and sweeps of tiny models on it."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import SHARED

from sparq_eval.sweep.manifest import Manifest, read
from sparq_eval.sweep.queue import Job, queued

SCRIPT = SHARED / "cluster/slurm_cluster.sh"
HERE = Path(__file__).parent
LAUNCH = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1")


def why_not() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    if not SCRIPT.is_file():
        return f"{SCRIPT}, which starts a Slurm for tests, is not there"
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]:
        return f"Slurm is not installed ({missing[0]} is missing: apt-get install slurmctld slurmd slurm-client munge)"
    return "starting Slurm's daemons needs root" if os.geteuid() != 0 else None


@contextmanager
def cluster() -> Iterator[Path]:
    """A running Slurm; SLURM_CONF says where it is. Its folder is short: sockets have short paths."""
    if why := why_not():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
    folder.chmod(0o755)
    port = 20000 + os.getpid() % 9000 // 8 * 8
    try:
        subprocess.run([SCRIPT, "start", folder, "4", str(port)], check=True, timeout=60)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patched.setenv("PYTHONPATH", f"{HERE}:{HERE.parent}")
            yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def node(cluster: Path, command: str, name: str) -> None:
    subprocess.run([SCRIPT, command, cluster, name], check=True, timeout=30)


def environment(**more: str) -> dict[str, str]:
    paths = f"{HERE}:{HERE.parent}"
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def begin(folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    """`python -m …` in this folder, with what it says in the file `said`. more: variables of its environment."""
    with (folder / "said").open("a") as said:
        command = [sys.executable, "-m", *words]
        return subprocess.Popen(command, cwd=folder, env=environment(**more), stdout=said, stderr=said, text=True)


def sweep(folder: Path, others: str, *words: str, **more: str) -> subprocess.Popen[str]:
    """A sweep whose jobs run on none of these nodes."""
    where = f"+hydra.launcher.additional_parameters.exclude='{others}'"
    return begin(folder, "sparq_eval", "-m", *words, "sweep_dir=sweep", *LAUNCH, where, **more)


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def until(what: Callable[[], object], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def manifest(folder: Path) -> Manifest:
    return read(folder / "sweep")


def jobs(folder: Path) -> dict[int, Job]:
    return queued(manifest(folder)) or {}


def rows(folder: Path, model: str) -> int:
    """Lines in all records of a model."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "results" / model).rglob("samples.jsonl"))
