"""A peer's measurements in a process of its own: `python -m peers.NAME WHAT SETTINGS`."""

import json
import sys
import time


def main(*measurements) -> None:
    """Runs the function that the command line names, and prints the figures as JSON."""
    what, settings = sys.argv[1:]
    found = {function.__name__: function for function in measurements}[what](json.loads(settings))
    print(json.dumps(found))


def rates(prompt: list, new: list, begin: float, first: float, text: str) -> dict:
    """Tokens per second up to the first new token, and from there until now."""
    return {
        "prompt_tokens": len(prompt),
        "prefill": len(prompt) / (first - begin),
        "decode": (len(new) - 1) / (time.perf_counter() - first),
        "text": text,
    }


def milliseconds(repeats: int, once) -> list[float]:
    """What `once` takes, after a run that does not count."""
    times = []
    for run in range(repeats + 1):
        begin = time.perf_counter()
        once()
        if run > 0:
            times.append((time.perf_counter() - begin) * 1e3)
    return times
