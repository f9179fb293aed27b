"""Other programs: run within their time and on the threads allowed."""

import os
import signal
import subprocess
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LP_NUM_THREADS")
TERMINATE_SECONDS = 20


class Failed(SystemExit):
    """A command that did not succeed; says why."""


def last_line(text: str) -> str:
    """The last line that says something, for a table's cell."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("|", "/")[:200] if lines else ""


def stop(process: subprocess.Popen) -> None:
    """Ends a command with all that it started."""
    # A script that drives a browser closes it when it is asked to end.
    for kind, seconds in ((signal.SIGTERM, TERMINATE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, kind)
            process.communicate(timeout=seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def run(args, *command, limit: float | None = None, **environment: str):
    """Runs a command, for at most `limit` seconds, and returns what it printed."""
    words = [str(word) for word in command]
    name = Path(words[0]).name
    try:
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | dict.fromkeys(THREADS, str(args.threads)) | environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Failed(f"{name}: {error.strerror}") from None
    try:
        stdout, stderr = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        stop(process)
        raise Failed(f"not done within {limit:.0f} s") from None
    except BaseException:
        stop(process)
        raise
    if process.returncode != 0:
        raise Failed(f"{name}: {last_line(stderr) or f'exit code {process.returncode}'}")
    return subprocess.CompletedProcess(words, 0, stdout, stderr)
