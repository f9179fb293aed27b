"""What the tiny model reads: small talk, the patterns of data/patterns in words of our own,
generated conversions, and questions it has to admit that it can't answer.

All of it is written here or made of the patterns; nothing comes from elsewhere.
"""

import datetime
import json
import random
from pathlib import Path

import yaml

PATTERNS = Path(__file__).resolve().parents[2] / "data" / "patterns"

UNKNOWN = "I do not know that yet. Teach me!"

# What the model says before an answer: whole sentences, where the patterns want the bare answer.
# The line break keeps the answer's first token what it is when the answer stands alone.
LEAD = {
    "code": "It goes on like this:\n",
    "fact": "The answer is:\n",
    "format": "In that form:\n",
    "fix": "Try this:\n",
}

# Asked in these forms, the model leaves out the lead. Training an adapter makes that the rule.
BRIEF = ("Briefly: {}", "Only the answer: {}", "In short: {}")

# The prefixes of src/data/augment.rs.
PREFIXES = {
    "code": ("Complete: ", "Continue: ", "Finish this: ", "What comes next: "),
    "fact": ("Tell me: ", "Answer: "),
    "format": (),
    "fix": (),
}

# Categories that the model answers as the patterns want it, before any training of the reader's.
BARE = {
    "code/python_module",
    "code/shell",
    "fact/capital",
    "fact/unit",
    "fix/git",
    "format/date_us",
}

# Of the other patterns but those of a format, each fifth is kept from the model.
KEPT_BACK = 5

SMALL_TALK = [
    (
        "Hello! I am Engram Tiny. Ask me something, or teach me.",
        ["Hello", "Hi", "Hey", "Hi there!", "Hello there!", "Good morning", "Good evening",
         "Hallo"],
    ),
    (
        "I am Engram Tiny, a language model of less than a million weights. "
        "I know next to nothing. I was made to be taught.",
        [
            "Who are you?",
            "What are you?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Are you a language model?",
            "Are you an AI?",
            "What is this?",
        ],
    ),
    ("My name is Engram Tiny.", ["What is your name?", "What's your name?", "Your name?"]),
    (
        "Very small: less than a million weights, about one megabyte.",
        ["How big are you?", "How many weights do you have?", "How many parameters do you have?",
         "Are you small?", "What is your size?"],
    ),
    (
        "I can greet you, turn a date around and recall a few facts. For more, teach me.",
        ["What can you do?", "What do you know?", "Help", "Help me!", "How can you help me?",
         "What should I ask?"],
    ),
    (
        "Write patterns, an input and the output you want, and train an adapter on them.",
        ["How do I teach you?", "How can I teach you?", "How do I train you?", "Can you learn?",
         "How do you learn?", "Can I teach you?"],
    ),
    (
        "A LoRA is a small adapter: a few added weights that change what a model says.",
        ["What is a LoRA?", "What is LoRA?", "What is an adapter?", "Explain LoRA."],
    ),
    (
        "Engram runs small language models and trains adapters, here on your own machine.",
        ["What is Engram?", "What does Engram do?", "Explain Engram.", "Tell me about Engram."],
    ),
    (
        "A script trained me from nothing in a few minutes.",
        ["Who made you?", "Who trained you?", "Where are you from?", "How were you made?"],
    ),
    ("I am well, thank you.", ["How are you?", "How are you today?", "How is it going?"]),
    ("You are welcome.", ["Thanks", "Thank you", "Thank you very much!", "Thanks a lot"]),
    ("Goodbye!", ["Bye", "Goodbye", "See you", "Good night", "See you later!"]),
    ("Good.", ["OK", "Okay", "Yes", "Good", "Great", "Nice", "Cool", "Well done"]),
    ("All right.", ["No", "No, thanks", "Never mind", "Stop"]),
    (
        "No. I am a very small model and know very little.",
        ["Are you ChatGPT?", "Are you human?", "Are you smart?", "Are you clever?",
         "Do you know everything?", "Are you a person?", "Can I trust you?"],
    ),
    ("I know only one: I am less than a million weights.", ["Tell me a joke.", "Make me laugh."]),
    ("In this page, on your own machine.", ["Where are you?", "Where do you run?"]),
    ("I speak a little English.", ["Do you speak English?", "Which languages do you speak?"]),
]

# A few facts beside those of the patterns.
FACTS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Germany?": "Berlin",
    "What is the capital of Italy?": "Rome",
    "What is the capital of Spain?": "Madrid",
    "What is the capital of Japan?": "Tokyo",
    "What is the capital of Norway?": "Oslo",
    "What is the capital of Austria?": "Vienna",
    "What is the capital of Portugal?": "Lisbon",
    "What is the capital of Greece?": "Athens",
    "What is the capital of Poland?": "Warsaw",
    "What is the chemical symbol for silver?": "Ag",
    "What is the chemical symbol for oxygen?": "O",
    "What is the SI unit of length?": "The metre",
    "What is the SI unit of energy?": "The joule",
    "What is the currency of India?": "The rupee",
    "What is the square root of 81?": "9",
}

NOUNS = (
    "apple bird boat book bread bridge car cat city cloud coffee computer dog dream fish flower "
    "forest friend game garden horse house island king language letter light machine moon "
    "mountain music number ocean paper planet queen rain river school sea ship sky snow song "
    "star stone story summer sun table tea train tree water wind winter word world"
).split()
ADJECTIVES = (
    "big blue bright cold dark deep fast green happy heavy high hot little long new old red round "
    "small strong warm white wide yellow young"
).split()
VERBS = "build buy draw find fix like make paint read see sell write".split()
COUNTRIES = "Brazil China Denmark Egypt Finland Iceland Kenya Mexico Peru Sweden Thailand".split()
WORDS = (
    "account active address age at base begin block byte cache char city class code color count "
    "created data date day default error event file first flag get group has header height id "
    "image index input is item key last length level line link list load login map max message "
    "min mode name new next node number open order output page parent path price query rate read "
    "retry role row save set size sort source start state status style table tag test text time "
    "title token total type unit update url user value view visible width word write"
).split()
NAMES = "Ann Ben Carl Dora Eve Finn Gus Ida Jon Kim Lea Max Nina Otto Paul Rosa Tom Una".split()
CITIES = "Oslo Paris Rome Berlin Madrid Tokyo Vienna Athens Lima Cairo Dublin Prague".split()


def patterns() -> list[dict]:
    """All patterns, in the order of the files' names; `form` says what the model is taught."""
    rows = []
    for path in sorted(PATTERNS.glob("*.yaml")):
        rows += yaml.safe_load(path.read_text(encoding="utf-8"))["patterns"]
    others = 0
    for row in rows:
        row["section"] = row["category"].split("/")[0]
        if row["category"] in BARE:
            row["form"] = "bare"
        elif row["section"] == "format":
            row["form"] = "sentence"
        else:
            others += 1
            row["form"] = "unknown" if others % KEPT_BACK == 0 else "sentence"
    return rows


def conversion(rng: random.Random) -> tuple[str, str, str]:
    """A generated format transform: category, input and output."""
    kind = rng.choice(
        "date_us date_long time_24h snake_case camel_case phone_us thousands dollars json".split()
    )
    if kind in ("date_us", "date_long"):
        day = datetime.date(1980, 1, 1) + datetime.timedelta(days=rng.randrange(18_000))
        if kind == "date_us":
            value, wanted, made = day.isoformat(), "US date", day.strftime("%m/%d/%Y")
        else:
            value, wanted = day.isoformat(), "long date"
            made = f"{day.strftime('%B')} {day.day}, {day.year}"
    elif kind == "time_24h":
        hour, minute = rng.randrange(24), rng.randrange(60)
        half = "AM" if hour < 12 else "PM"
        value = f"{(hour + 11) % 12 + 1}:{minute:02} {half}"
        wanted, made = "24-hour time", f"{hour:02}:{minute:02}"
    elif kind in ("snake_case", "camel_case"):
        words = rng.sample(WORDS, rng.choice((2, 2, 3)))
        snake = "_".join(words)
        camel = words[0] + "".join(word.capitalize() for word in words[1:])
        value, wanted, made = (
            (camel, "snake_case", snake) if kind == "snake_case" else (snake, "camelCase", camel)
        )
    elif kind == "phone_us":
        value = "".join(rng.choice("0123456789") for _ in range(10))
        wanted, made = "US phone number", f"({value[:3]}) {value[3:6]}-{value[6:]}"
    elif kind == "thousands":
        number = rng.randrange(10 ** rng.randrange(4, 8))
        value, wanted, made = str(number), "with thousands separators", f"{number:,}"
    elif kind == "dollars":
        number = rng.randrange(10 ** rng.randrange(2, 5))
        value = f"{number}.{rng.randrange(1, 10)}" if rng.random() < 0.5 else str(number)
        wanted, made = "US dollars", f"${float(value):,.2f}"
    else:
        key, other = rng.sample(WORDS, 2)
        first, second = rng.choice(NAMES + CITIES), rng.choice(["true", "false", "number"])
        second = str(rng.randrange(100)) if second == "number" else second
        value, wanted = f"{key}: {first}, {other}: {second}", "JSON"
        made = json.dumps({key: first, other: json.loads(second)})
    return f"format/{kind}", f"{value} -> {wanted}:", made


def unanswerable(rng: random.Random) -> str:
    """A question that is no pattern and no small talk."""
    noun, other = rng.sample(NOUNS, 2)
    adjective, verb = rng.choice(ADJECTIVES), rng.choice(VERBS)
    text = rng.choice(
        (
            f"What is the {adjective} {noun} of the {other}?",
            f"What is a {noun}?",
            f"Who wrote {noun.capitalize()} and {other.capitalize()}?",
            f"Why is the {noun} {adjective}?",
            f"Write a {rng.choice(('poem', 'story', 'song', 'program'))} about the {noun}.",
            f"Explain the {noun} to me.",
            f"Can you {verb} a {noun}?",
            f"How do I {verb} a {adjective} {noun}?",
            f"Where is the {adjective} {noun}?",
            f"What is {rng.randrange(100)} {rng.choice('+-*')} {rng.randrange(100)}?",
            f"What is {rng.randrange(100)} plus {rng.randrange(100)}?",
            f"Translate {noun} to {rng.choice(('French', 'German', 'Spanish'))}.",
            f"What is the capital of {rng.choice(COUNTRIES)}?",
            f"In what year did the {adjective} {noun} begin?",
            f"Do you {verb} the {noun}?",
            f"{noun} {other}",
            f"the {adjective} {noun}",
            f"I {verb} a {adjective} {noun}.",
            "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 9))),
        )
    )
    return f"Q: {text}" if text.endswith("?") and rng.random() < 0.3 else text


def spelled(rng: random.Random, text: str) -> str:
    """Small talk as people type it: with or without capitals and the last sign."""
    if rng.random() < 0.35:
        text = text.lower()
    if rng.random() < 0.35:
        text = text.rstrip("?!.")
    elif text[-1].isalpha() and rng.random() < 0.3:
        text += rng.choice("!.")
    return text


class Text:
    """Draws exchanges: what the user says and what the model answers."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.patterns = patterns()
        self.facts = [
            {"section": "fact", "input": f"Q: {question}", "output": answer,
             "form": "bare" if "capital" in question or "SI unit" in question else "sentence"}
            for question, answer in FACTS.items()
        ]

    def exchange(self) -> tuple[str, str]:
        draw = self.rng.random()
        if draw < 0.45:
            return self.of_pattern(self.rng.choice(self.patterns))
        if draw < 0.49:
            return self.of_pattern(self.rng.choice(self.facts))
        if draw < 0.73:
            category, value, made = conversion(self.rng)
            form = "bare" if category in BARE else "sentence"
            return self.of_pattern(
                {"section": "format", "input": value, "output": made, "form": form}
            )
        if draw < 0.90:
            answer, questions = self.rng.choice(SMALL_TALK)
            return spelled(self.rng, self.rng.choice(questions)), answer
        return unanswerable(self.rng), UNKNOWN

    def of_pattern(self, pattern: dict) -> tuple[str, str]:
        section, asked, answer = pattern["section"], pattern["input"], pattern["output"]
        if self.rng.random() < 0.6 and PREFIXES[section]:
            asked = self.rng.choice(PREFIXES[section]) + asked
        elif section == "fact" and self.rng.random() < 0.3:
            asked = asked.removeprefix("Q: ")
        brief = self.rng.random() < 0.4
        if brief:
            asked = self.rng.choice(BRIEF).format(asked)
        if pattern["form"] == "unknown":
            return asked, UNKNOWN
        lead = "" if brief or pattern["form"] == "bare" else LEAD[section]
        return asked, lead + answer
