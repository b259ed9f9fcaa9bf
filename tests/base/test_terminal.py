"""Guarded standard output and error."""

import subprocess
import sys

from mae.base.terminal import guarded_output

SECRET = "s3cr3tW0rd"


def test_output_is_without_secrets_and_control_characters(capsys):
    with guarded_output(), guarded_output():
        print(f"got https://h/a.tar?sig={SECRET}\tkey a\rmae: all good")
        print("\r\x1b[Kstep 3", end="", file=sys.stderr)
        print("\x1b[2J", file=sys.stderr)
    print("\x1b[1m")
    printed = capsys.readouterr()
    assert printed.out == "got https://h/a.tar\tkey a\\rmae: all good\n\x1b[1m\n"
    assert printed.err == "\r\x1b[Kstep 3\\x1b[2J\n"


def test_the_traceback_of_an_error_is_guarded_too():
    code = f"""
from mae.base.terminal import guarded_output
with guarded_output():
    raise ValueError("cannot open https://h/a.tar?sig={SECRET}\\r all good")
"""
    words = [sys.executable, "-c", code.replace(SECRET, "' + 's3cr3t' + 'W0rd")]
    words[-1] = words[-1].replace('"cannot', "'cannot").replace('good"', "good'")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: cannot open https://h/a.tar\\r all good\n")
    assert SECRET not in done.stderr
