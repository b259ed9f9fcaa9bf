import subprocess
import sys

import psutil
import pytest

from mae.base.process_group import ProcessGroup
from tests.waiting import wait_for

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
"""


def test_orphans_are_members_and_are_killed():
    group = ProcessGroup()
    subprocess.run([sys.executable, "-c", PARENT], env=group.environment(), check=True)
    (orphan,) = group.members()
    assert ProcessGroup().members() == []
    assert group.training_processes() == []
    assert group.kill() == []
    assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("words", "is_training"),
    [
        (["-m", "mae.pretrain", "a.yaml"], True),
        (["-X", "dev", "-u", "-m", "mae", "finetune", "a.yaml"], True),
        (["-m", "mae", "report", "run"], False),
        (["-m", "accelerate.commands.launch", "-m", "mae.pretrain"], False),
        (["-m", "mae", "pretrain", "a.yaml", "--processes", "2"], False),
    ],
)
def test_training_processes_are_known_by_their_command_line(tmp_path, words, is_training):
    for package in ("mae", "accelerate"):
        (tmp_path / package / "commands").mkdir(parents=True)
    for file in ("mae/pretrain.py", "mae/__main__.py", "accelerate/commands/launch.py"):
        (tmp_path / file).write_text("import time; time.sleep(60)")
    group = ProcessGroup()
    process = subprocess.Popen(
        [sys.executable, *words], env=group.environment() | {"PYTHONPATH": ""}, cwd=tmp_path
    )
    try:
        wait_for(lambda: process.pid in [member.pid for member in group.members()])
        found = [member.pid for member in group.training_processes()]
        assert found == [process.pid] * is_training
    finally:
        process.kill()
        process.wait()
