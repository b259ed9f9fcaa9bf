"""Runs that die, and what the supervisor makes of it: real processes, real launchers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from mae.base.errors import RunFailed, UserError
from mae.base.process_group import MARK
from mae.cli import main
from mae.commands.supervise import Supervisor, newest_step, run_folder
from tests.runs import command, environment, events_of, metrics_of, write_config

PRETRAIN = '''
"""Stands in for mae.pretrain: each life follows the next line of `lives`."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

folder, rank = Path(os.environ["FAKE"]), os.environ.get("RANK", "0")
run = folder / "run"
seen = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, frame: seen.append(signal.Signals(number).name))
with (folder / "log").open("a") as log:
    log.write(f"{rank}\\n")
number = (folder / "log").read_text().split().count(rank) - 1
lives = [json.loads(line) for line in (folder / "lives").read_text().splitlines()]
life = lives[min(number, len(lives) - 1)]

def leave(code, step):
    if life.get("word", True):
        word = json.dumps({"code": code, "step": step, "reason": life.get("reason", "a word")})
        Path(os.environ["MAE_EXIT_STATUS"]).write_text(word)
    sys.exit(code)

run.mkdir(exist_ok=True)
(run / "config.yaml").touch()
if (folder / "orphan").exists():
    state = Path("/proc", (folder / "orphan").read_text(), "stat")
    is_dead = not state.exists() or state.read_text().split()[2] == "Z"
    (folder / "survived").write_text(str(not is_dead))
if life.get("orphan"):
    orphan = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (folder / "orphan").write_text(str(orphan.pid))
if "step" in life:
    (run / "checkpoints" / f"step-{life['step']:09d}").mkdir(parents=True, exist_ok=True)
if life.get("wait"):
    if life.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (folder / f"ready-{rank}").touch()
    while life.get("kill_rank") == rank:
        if (folder / "ready-0").exists():
            os.kill(os.getpid(), signal.SIGKILL)
    while not seen:
        time.sleep(0.01)
    time.sleep(life.get("saving", 0))
    (folder / f"seen-{rank}").write_text(" ".join(seen))
    leave(75, life.get("step"))
if life.get("kill"):
    os.kill(os.getpid(), signal.SIGKILL)
leave(life["code"], life.get("step"))
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`fake(life, …)` prepares these lives and returns the command line that lives them."""
    package = tmp_path / "fake" / "mae"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "pretrain.py").write_text(PRETRAIN)
    (tmp_path / "tiny.yaml").write_text(f"output: {tmp_path}/run\n")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr("mae.commands.supervise.STATUS_TIMEOUT", 0.1)
    monkeypatch.chdir(tmp_path)  # `-m` searches the working directory first

    def prepare(*lives: dict, launcher: tuple[str, ...] = ()) -> list[str]:
        (tmp_path / "lives").write_text("\n".join(map(json.dumps, lives)))
        python = ["env", f"PYTHONPATH={package.parent}", sys.executable]
        return [*python, *launcher, "-m", "mae.pretrain", str(tmp_path / "tiny.yaml")]

    return prepare


class Recorded(Supervisor):
    """Notes its pauses instead of making them."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.pauses: list[float] = []

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def supervised(command: list[str], folder: Path, relaunches: int = 3) -> tuple[int, Recorded]:
    supervisor = Recorded(command, folder / "run", relaunches)
    return supervisor.run(), supervisor


def lives_of(folder: Path) -> int:
    return (folder / "log").read_text().split().count("0")


def event_rows(run: Path) -> list[tuple[str, int | None, str]]:
    return [(row["event"], row["step"], row["reason"]) for row in events_of(run)]


def marked() -> list[psutil.Process]:
    """Living processes of the supervisors that this test started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAKE") and process.environ().get(MARK):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [p for p in found if p.environ()["FAKE"] == os.environ.get("FAKE")]


@pytest.mark.parametrize("life", [{"code": 0}, {"code": 0, "word": False, "step": 4}])
def test_a_run_that_is_done_is_done(fake, tmp_path, life):
    assert supervised(fake(life), tmp_path)[0] == 0
    assert lives_of(tmp_path) == 1


def test_a_command_that_ends_without_a_run_is_not_done(fake, tmp_path):
    """Its exit code 0 says nothing on the run: `echo`, or a launcher that returns at once."""
    run = ["-m", "mae.pretrain", str(tmp_path / "tiny.yaml")]
    for words in (["echo", *run], fake({"code": 0, "word": False})):
        with pytest.raises(RunFailed, match="exit code 0, but no run reported its end"):
            supervised(words, tmp_path)
    assert supervised(["echo", *run, "--dry-run"], tmp_path)[0] == 0


@pytest.mark.parametrize("life", [{"code": 2}, {"code": 2, "word": False}])
def test_wrong_use_is_not_repeated(fake, tmp_path, life):
    assert supervised(fake(life), tmp_path)[0] == 2
    assert lives_of(tmp_path) == 1


def test_as_long_as_checkpoints_get_newer_a_run_that_dies_is_relaunched(fake, tmp_path, capfd):
    lives = [{"step": step, "code": 1, "reason": "disk full"} for step in (8, 16, 24)]
    code, supervisor = supervised(fake(*lives, {"code": 0}), tmp_path, relaunches=1)
    assert code == 0
    assert lives_of(tmp_path) == 4
    assert supervisor.pauses == [10, 10, 10]
    assert event_rows(tmp_path / "run") == [("relaunch", s, "disk full") for s in (8, 16, 24)]
    messages = capfd.readouterr().err.splitlines()
    assert messages[0] == "mae: supervise: disk full; stands at step 8, relaunch in 10 s"
    assert len(messages) == 3


def test_without_progress_it_gives_up_with_the_runs_own_code(fake, tmp_path, capfd):
    code, supervisor = supervised(fake({"step": 8, "code": 3, "reason": "loss is nan"}), tmp_path)
    assert code == 3
    assert supervisor.pauses == [10, 10, 20, 40]  # the first life did bring a checkpoint
    assert lives_of(tmp_path) == 5
    assert event_rows(tmp_path / "run")[-1] == ("give up", 8, "loss is nan")
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == (
        "mae: supervise: loss is nan; stands at step 8, giving up after 3 relaunches without a "
        "newer checkpoint"
    )


def test_progress_makes_the_count_begin_anew(fake, tmp_path):
    lives = [{"code": 1}, {"code": 1}, {"code": 1, "step": 4}, {"code": 1}, {"code": 1}]
    code, supervisor = supervised(fake(*lives, {"code": 0}), tmp_path, relaunches=2)
    assert code == 0
    assert supervisor.pauses == [10, 20, 10, 10, 20]


def test_a_run_that_starts_with_a_checkpoint_needs_a_newer_one(fake, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-000000008").mkdir(parents=True)
    code, supervisor = supervised(fake({"step": 8, "code": 1}), tmp_path, relaunches=1)
    assert code == 1 and supervisor.pauses == [10]


def test_the_longest_pause_is_ten_minutes(fake, tmp_path):
    _, supervisor = supervised(fake({"code": 1}), tmp_path, relaunches=9)
    assert supervisor.pauses[-2:] == [600, 600]


def test_a_killed_run_left_no_word(fake, tmp_path):
    code, _ = supervised(fake({"kill": True, "step": 4}, {"code": 0}), tmp_path)
    assert code == 0
    assert event_rows(tmp_path / "run") == [("relaunch", 4, "killed by SIGKILL")]


def test_the_word_of_another_life_counts_for_nothing(fake, tmp_path):
    """A stale "done" of an earlier supervisor is ignored when the run is killed at its start."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "run" / "exit-status").write_text('{"code": 0, "step": 4, "reason": "done"}')
    assert supervised(fake({"kill": True}), tmp_path, relaunches=0)[0] == 128 + signal.SIGKILL


def test_stopped_without_having_been_asked_is_relaunched(fake, tmp_path):
    code, _ = supervised(fake({"code": 75, "step": 4}, {"code": 0}), tmp_path)
    assert code == 0 and lives_of(tmp_path) == 2


def test_what_a_dead_launch_left_behind_is_killed_before_the_next(fake, tmp_path):
    code, _ = supervised(fake({"code": 1, "orphan": True}, {"code": 0, "orphan": True}), tmp_path)
    assert code == 0
    assert (tmp_path / "survived").read_text() == "False"
    assert not marked()


def test_a_launcher_killed_outright_leaves_nobody(fake, tmp_path):
    """The supervisor finds the processes of a launcher that can no longer name them."""
    launcher = "import os, subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]]); "
    launcher += "import time; time.sleep(1); os.kill(os.getpid(), 9)"
    line = fake({"wait": True, "step": 4}, {"code": 0}, launcher=("-c", launcher))
    assert supervised(line, tmp_path)[0] == 0
    assert lives_of(tmp_path) == 2
    assert not marked()


def start(line: list[str], *options: str) -> subprocess.Popen[str]:
    """The supervisor as a process, in a group of its own as a shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "mae", "supervise", *options, *line],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        process_group=0,
    )


def wait_for(*paths: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def stop(line: list[str], folder: Path, number: int, ranks: int = 1) -> tuple[int, str]:
    """Start, wait until every process trains, signal; return the exit code and stderr."""
    process = start(line)
    try:
        wait_for(*(folder / f"ready-{rank}" for rank in range(ranks)), process=process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert not marked()
    return process.returncode, stderr


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_is_passed_on_and_the_run_stops_in_order(fake, tmp_path, sent):
    line = fake({"wait": True, "step": 4})
    code, stderr = stop(line, tmp_path, signal.Signals[sent])
    assert code == 75
    assert (tmp_path / "seen-0").read_text() == sent
    assert stderr == f"mae: supervise: stopped by {sent} at step 4; the same command continues\n"


def test_a_lost_terminal_costs_nothing(fake, tmp_path):
    line = fake({"wait": True, "step": 4})
    process = start(line)
    try:
        wait_for(tmp_path / "ready-0", process=process)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None and not (tmp_path / "seen-0").exists()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 75


@pytest.mark.parametrize("words", [["--delay=-1"], ["--relaunches=-1"], ["--delay=nan"]])
def test_negative_numbers_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["supervise", *words, "python", "-m", "mae.pretrain", "x.yaml"])
    assert ended.value.code == 2
    assert "is not" in capsys.readouterr().err.splitlines()[-1]


def test_the_launcher_of_one_process_is_left_alone(fake, tmp_path):
    """It would die of the signal, and the run would go on unseen."""
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    line = fake({"wait": True, "saving": 1}, launcher=launcher)
    assert stop(line, tmp_path, signal.SIGTERM)[0] == 75
    assert (tmp_path / "seen-0").read_text() == "SIGTERM"


def test_the_launcher_of_several_processes_kills_nobody_who_is_saving(fake, tmp_path, monkeypatch):
    """Its timeout is shorter than saving takes; each process receives one signal."""
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")
    real = command(tmp_path / "tiny.yaml", processes=2)
    launcher = tuple(real[1 : real.index("mae.pretrain") - 1])
    line = fake({"wait": True, "saving": 3}, launcher=launcher)
    assert stop(line, tmp_path, signal.SIGUSR1, ranks=2)[0] == 75
    assert [(tmp_path / f"seen-{rank}").read_text() for rank in "01"] == ["SIGUSR1"] * 2


def test_one_of_two_processes_dies_and_both_are_relaunched(fake, tmp_path):
    """The launcher's own end of the other one is not a requested stop."""
    real = command(tmp_path / "tiny.yaml", processes=2)
    launcher = tuple(real[1 : real.index("mae.pretrain") - 1])
    line = fake({"wait": True, "step": 4, "kill_rank": "1"}, {"code": 0}, launcher=launcher)
    assert supervised(line, tmp_path)[0] == 0
    assert lives_of(tmp_path) == 2
    assert (tmp_path / "seen-0").read_text() == "SIGTERM"


def test_a_run_that_dies_of_the_signal_counts_as_stopped(fake, tmp_path):
    line = fake({"wait": True, "deaf": True, "word": False})
    assert stop(line, tmp_path, signal.SIGTERM)[0] == 75
    assert lives_of(tmp_path) == 1
    assert event_rows(tmp_path / "run") == [("stop", None, "SIGTERM, killed by SIGTERM")]


FORWARDS_NOTHING = (
    "-c",
    "import subprocess, sys; subprocess.call([sys.executable, *sys.argv[1:]])",
)
"""as accelerate's launcher of one process does: a signal ends it, and it alone"""


def signal_everybody(process: subprocess.Popen, supervisor_after: float = 0) -> None:
    for member in sorted(marked(), key=lambda one: one.pid):  # the launcher first
        member.terminate()
    time.sleep(supervisor_after)
    process.terminate()


@pytest.mark.parametrize("supervisor_after", [0, 0.2])
def test_a_signal_to_every_process_leaves_the_run_the_time_to_save(
    fake, tmp_path, supervisor_after
):
    """The launcher dies of it at once; whatever is late to hear of it kills nobody meanwhile."""
    line = fake({"wait": True, "saving": 1.5, "step": 4}, launcher=FORWARDS_NOTHING)
    process = start(line)
    try:
        wait_for(tmp_path / "ready-0", process=process)
        signal_everybody(process, supervisor_after)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "seen-0").exists()
    assert process.returncode == 75
    assert stderr == "mae: supervise: stopped by SIGTERM at step 4; the same command continues\n"
    assert not marked()


def test_a_third_ctrl_c_kills_a_run_that_saves_without_its_launcher(fake, tmp_path):
    process = start(fake({"wait": True, "saving": 600}, launcher=FORWARDS_NOTHING))
    try:
        wait_for(tmp_path / "ready-0", process=process)
        signal_everybody(process)
        for _ in range(3):
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "interrupted for the third time: killing the run" in stderr
    assert not marked()


def test_saving_without_a_launcher_is_not_waited_for_without_end(fake, tmp_path, monkeypatch):
    monkeypatch.setattr("mae.commands.supervise.SAVING_TIMEOUT", 0.5)
    line = fake({"wait": True, "saving": 600}, launcher=FORWARDS_NOTHING)

    def stop_all() -> None:
        while not (tmp_path / "ready-0").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        min(marked(), key=lambda one: one.pid).terminate()

    thread = threading.Thread(target=stop_all)
    thread.start()
    began = time.monotonic()
    assert supervised(line, tmp_path)[0] == 75
    thread.join()
    assert time.monotonic() - began < 20
    assert not marked()


def test_a_third_ctrl_c_kills(fake, tmp_path):
    process = start(fake({"wait": True, "saving": 600}))
    try:
        wait_for(tmp_path / "ready-0", process=process)
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "interrupted for the third time: killing the run" in stderr
    assert not marked()


def test_a_signal_between_two_launches_ends_the_waiting(fake, tmp_path):
    process = start(fake({"code": 1, "step": 4}), "--delay", "500")
    try:
        assert process.stderr is not None
        assert "relaunch in 500 s" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=10) == 75
    finally:
        process.kill()
        process.communicate()
    assert lives_of(tmp_path) == 1


def test_wrong_settings_are_reported_once_and_nothing_is_launched(fake, tmp_path, capsys):
    assert main(["supervise", *fake({"code": 0}), "model.mask_raito=0.5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.mask_raito: unknown key, did you mean mask_ratio" in line
    assert not (tmp_path / "log").exists()


def test_a_command_that_does_not_exist_is_reported(fake, capsys):
    line = fake({"code": 0})
    assert main(["supervise", "/no/such/launcher", *line]) == 2
    assert capsys.readouterr().err == (
        "mae: supervise: /no/such/launcher: No such file or directory\n"
    )


def test_the_run_folder_comes_from_the_command(fake):
    config = fake({})[-1]
    launcher = ["accelerate", "launch", "--num_processes", "2", "-m", "mae.pretrain", config]
    assert run_folder([*launcher, "output=elsewhere"]) == Path("elsewhere")
    assert run_folder(["mae", "pretrain", config, "output=there"]) == Path("there")
    processes = ["mae", "pretrain", "--processes", "2", config, "output=there"]
    assert run_folder(processes) == Path("there")
    for line in (["sleep", "3"], ["-m", "other.pretrain", config], ["mae", "mae.finetune", config]):
        with pytest.raises(UserError, match=r"neither `-m mae\.pretrain CONFIG` nor `-m mae\.fine"):
            run_folder(line)


def test_the_run_folder_of_a_finetuning_is_the_one_that_mae_finetune_takes(fake, tmp_path):
    """The folder is set in a YAML file, or lies beside the pretraining run of the start."""
    config = fake({})[-1]
    launcher = ["accelerate", "launch", "-m", "mae.finetune"]
    assert run_folder([*launcher, config, "data.train=a.tar"]) == tmp_path / "run"
    elsewhere = ["data.train=a.tar", "output=elsewhere"]
    assert run_folder([*launcher, config, *elsewhere]) == Path("elsewhere")
    run = tmp_path / "pretrained"
    run.mkdir()
    (run / "config.yaml").write_text("output: pretrained\ndata: {train: [a.tar]}\n")
    line = [sys.executable, "-m", "mae.finetune", f"{run}/", "train.epochs=30"]
    assert run_folder(line) == tmp_path / "pretrained-finetuned"
    assert run_folder(["mae", "finetune", str(run)]) == tmp_path / "pretrained-finetuned"
    with pytest.raises(UserError, match=r"no run here \(no config\.yaml\)"):
        run_folder([*launcher, str(tmp_path)])


def test_the_supervisor_does_not_import_torch():
    code = "import sys, mae.cli, mae.commands.supervise; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_checkpoints_under_way_are_no_progress(tmp_path):
    assert newest_step(tmp_path) is None
    for name in ("step-000000004", "step-000000012", "step-000000016.77.tmp", "step-last"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 12


@pytest.mark.fault
def test_a_real_run_that_is_killed_comes_to_its_end(shards, tmp_path):
    config = write_config(tmp_path, shards)
    process = start(command(config), "--delay", "0")
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "step-000000004", process=process)
        (run,) = psutil.Process(process.pid).children()
        run.kill()
        _, stderr = process.communicate(timeout=120)
    finally:
        process.terminate()
        process.wait(30)
    assert process.returncode == 0, stderr
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == list(range(1, 27))
    (relaunch,) = (event for event in event_rows(tmp_path / "run") if event[0] == "relaunch")
    assert relaunch[1] is not None and relaunch[1] >= 4
