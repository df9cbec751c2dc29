"""A sweep on SLURM, whose commands are replaced by scripts that run the job on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _helpers.camvid_files import MakeCamVid
from _helpers.tiny import PLAIN
from _helpers.waiting import CEILING

SBATCH = """#!/bin/bash
# Runs each task of the array in turn, as a cluster would at its leisure.
script="${@: -1}"
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
cp "$script" "$FAKE_SLURM/script.sh"
export SLURM_ARRAY_JOB_ID=77 SLURM_JOB_ID=77 SLURM_NTASKS=1 SLURM_NNODES=1 SLURM_PROCID=0 SLURM_LOCALID=0
export SLURM_NODEID=0 SLURM_JOB_NODELIST=localhost SLURM_JOB_NUM_NODES=1 SLURM_NTASKS_PER_NODE=1
export SLURM_JOB_NAME=train
for task in $(seq 0 "${array:-0}"); do
  SLURM_ARRAY_TASK_ID=$task bash "$script" > "$FAKE_SLURM/$task.log" 2>&1
done > /dev/null 2>&1 &
echo "Submitted batch job 77"
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* || "$1" == -* ]]; do
  if [[ "$1" == --output || "$1" == --error || "$1" == -o || "$1" == -e ]]; then shift; fi
  shift
done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
"""


@pytest.mark.slow
def test_jobs_go_to_the_cluster_and_finished_ones_are_not_trained_again(
    make_camvid: MakeCamVid, tmp_path: Path
) -> None:
    folder, root, tools = tmp_path / "sweep", make_camvid(), tmp_path / "bin"
    tools.mkdir()
    for name, content in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (tools / name).write_text(content)
        (tools / name).chmod(0o755)
    variables = {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE_SLURM": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def sweep() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hemnet.train", "--multirun", *PLAIN, "trainer.max_epochs=1", "seed=0,1",
             "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.partition=short",
             "resume=auto", f"data.root={root}", f"hydra.sweep.dir={folder}"],
            env=os.environ | variables, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=CEILING, check=False,
        )  # fmt: skip

    assert (first := sweep()).returncode == 0, first.stderr + "".join(
        path.read_text() for path in tmp_path.glob("*.log")
    )
    script = (tmp_path / "script.sh").read_text()
    assert "--partition=short" in script
    assert "--ntasks-per-node=1" in script
    results = sorted(folder.glob("*/result.json"))
    assert [path.parent.name.rpartition("_")[2] for path in results] == ["seed-0", "seed-1"]
    times = [path.stat().st_mtime_ns for path in results]
    assert (second := sweep()).returncode == 0, second.stderr
    assert [path.stat().st_mtime_ns for path in results] == times
