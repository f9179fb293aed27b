"""Medians of the rounds, whether the peers agree, and the tables."""

import statistics

from peers.registry import PEERS

# Whose results the others are held against: the first of them that ran.
REFERENCES = ("pytorch", "mlx", "engram-burn-cpu", "engram-wgpu")
# Relative.
LOSS_TOLERANCE = 1e-3
ENGINE = {
    "first_step_seconds": ("first step, s", ".2f"),
    "step_seconds": ("LoRA step, s", ".2f"),
    "first_loss": ("first loss", ".4f"),
    "prefill_tokens_per_second": ("prompt, tokens/s", ".2f"),
    "decode_tokens_per_second": ("decode, tokens/s", ".2f"),
}
INFERENA = {
    "forward_ms": ("forward, ms", ".0f"),
    "one_token_ms": ("one token, ms", ".0f"),
    "step_ms": ("training step, ms", ".0f"),
    "loss": ("loss", ".4f"),
}


def medians(runs: dict) -> dict:
    """Of one peer's runs."""
    trained, decoded, protocol = runs["train"], runs["decode"], runs["inferena"]
    found = {}
    for run in (*trained, *decoded, *protocol):
        found |= {key: run[key] for key in ("version", "device", "browser") if key in run}
    if trained:
        later = [seconds for run in trained for seconds in run["steps"][1:]]
        found["first_step_seconds"] = statistics.median(run["steps"][0] for run in trained)
        if later:
            found["step_seconds"] = statistics.median(later)
        found["first_loss"] = trained[0]["losses"][0]
    for rate in ("prefill", "decode") if decoded else ():
        found[f"{rate}_tokens_per_second"] = statistics.median(run[rate] for run in decoded)
    if decoded:
        found["prompt_tokens"] = decoded[0]["prompt_tokens"]
    for key in ("forward_ms", "one_token_ms", "step_ms"):
        values = [value for run in protocol for value in run.get(key, ())]
        if values:
            found[key] = statistics.median(values)
    if protocol and "loss" in protocol[0]:
        found["loss"] = protocol[0]["loss"]
    return found


def differences(runs: dict, found: dict) -> dict[str, dict[str, str]]:
    """What a peer computes otherwise than the reference does, by peer and measurement."""
    notes = {name: {} for name in runs}
    for key, what in (("first_loss", "train"), ("loss", "inferena")):
        reference = next((name for name in REFERENCES if key in found.get(name, ())), None)
        for name in runs:
            if reference is None or key not in found[name]:
                continue
            mine, theirs = found[name][key], found[reference][key]
            if not abs(mine - theirs) <= LOSS_TOLERANCE * abs(theirs):
                notes[name][what] = f"its loss is not {reference}'s {theirs:.4f}"
    reference = next((name for name in REFERENCES if runs.get(name, {}).get("decode")), None)
    for name in runs:
        if reference is None or not runs[name]["decode"]:
            continue
        mine, theirs = runs[name]["decode"][0]["text"], runs[reference]["decode"][0]["text"]
        same = common_beginning(mine, theirs)
        # A text that is cut off within a letter ends otherwise.
        if same < min(len(mine.rstrip("\ufffd\n")), len(theirs.rstrip("\ufffd\n"))):
            notes[name]["decode"] = f"its text leaves {reference}'s after {same} characters"
    return notes


def common_beginning(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (x, y) in pairs if x != y), min(len(a), len(b)))


def reasons(name: str, runs: dict, notes: dict, *whats: str) -> str:
    """Why figures of these measurements are missing, and what is odd about the others."""
    own = {what: runs[what][0]["note"] for what in whats if runs[what] and "note" in runs[what][0]}
    known = (PEERS[name].missing, runs["failed"], notes[name], own)
    texts = [some[what] for what in whats for some in known if what in some]
    return "; ".join(dict.fromkeys(texts))


def table(runs: dict, found: dict, notes: dict, columns: dict, *whats: str) -> str:
    heads = ["peer", "on", "weights", *(head for head, _ in columns.values()), ""]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in runs:
        mine = found[name]
        cells = [
            format(mine[key], style) if key in mine else "–" for key, (_, style) in columns.items()
        ]
        title = " ".join(filter(None, (name, mine.get("version"))))
        # A measurement may have taken others than the file's.
        taken = [run["weights"] for what in whats for run in runs[name][what] if "weights" in run]
        weights = taken[0] if taken else PEERS[name].weights
        row = [title, PEERS[name].place, weights, *cells, reasons(name, runs[name], notes, *whats)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def tables(runs: dict) -> tuple[dict, str]:
    """The medians by peer, and both tables as Markdown."""
    found = {name: medians(peer) for name, peer in runs.items()}
    notes = differences(runs, found)
    devices = {
        PEERS[name].place: mine["device"] for name, mine in found.items() if "device" in mine
    }
    browser = next((mine["browser"] for mine in found.values() if "browser" in mine), None)
    where = [f"{place}: {device}" for place, device in devices.items() if device != place]
    if browser:
        where.append(f"Chromium {browser}")
    parts = [
        "; ".join(where),
        table(runs, found, notes, ENGINE, "train", "decode"),
        "The inferena protocol, 128 tokens:",
        table(runs, found, notes, INFERENA, "inferena"),
    ]
    return {name: found[name] | {"notes": notes[name]} for name in runs}, "\n\n".join(parts)
