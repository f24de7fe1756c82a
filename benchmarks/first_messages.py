"""What two models answer to a person's first messages, and what two readers thought of it.

    python benchmarks/first_messages.py ask PROMPTS.json --models before=runs/old now=demo/model --output asked.json
    python benchmarks/first_messages.py count asked.json

PROMPTS.json maps a kind of message to its messages. A message is a text, or a list of texts: the person's turns in a
conversation. `ask` writes every answer. Then every row gets the verdicts of two readers for each model:
`"good": {"before": [false, true], "now": [true, true]}`. `count` says how often both found the answer good.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from assistant.dataset.instructions import Exchange
from assistant.decoding.session import Session
from assistant.files import write_atomic
from assistant.settings import GenerationSettings

HONEST = re.compile(r"\bhave (?:not|never) learnt\b")
SETTINGS = GenerationSettings(max_new_tokens=64)
"""Greedy, as the chat starts."""


def answers(session: Session, turns: list[str]) -> list[str]:
    """Return the answers to the turns of one conversation. The model gets the history if it was trained with any."""
    info = session.info
    has_learnt_conversations = info is not None and info.conversation_rows > 0
    most = (info.history_length if info is not None else 0) or len(turns)
    history: list[Exchange] = []
    for turn in turns:
        reply = session.reply(turn, history=history[-most:] if has_learnt_conversations else (), settings=SETTINGS)
        history.append(Exchange(turn, reply.response))
    return [exchange.assistant for exchange in history]


def ask(prompts: dict[str, list[str | list[str]]], models: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for every message: its kind, its turns, and the answers of every model."""
    sessions = {name: Session.load(folder, precision="float32") for name, folder in models.items()}
    rows = []
    for kind, messages in prompts.items():
        for message in messages:
            turns = [message] if isinstance(message, str) else message
            answered = {name: answers(session, turns) for name, session in sessions.items()}
            rows.append({"kind": kind, "turns": turns, "answers": answered})
    return rows


def count(rows: list[dict[str, Any]]) -> str:
    """Return a table: for every kind and model, the answers that both readers found good, and that either did."""
    good: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        for model, verdicts in row.get("good", {}).items():
            good[row["kind"], model, "all"] += 1
            good[row["kind"], model, "both"] += all(verdicts)
            good[row["kind"], model, "either"] += any(verdicts)
            good[row["kind"], model, "honest"] += bool(HONEST.search(row["answers"][model][0]))
    lines = ["| messages | model | number | both readers | one at least | says that it has not learnt it |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for kind, model in dict.fromkeys(key[:2] for key in good):
        numbers = (good[kind, model, name] for name in ("all", "both", "either", "honest"))
        lines.append(f"| {kind} | {model} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main() -> None:
    """Ask the models, or count the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask")
    asking.add_argument("prompts", type=Path)
    asking.add_argument("--models", nargs="+", required=True, help="NAME=FOLDER")
    asking.add_argument("--output", type=Path, required=True)
    commands.add_parser("count").add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "count":
        print(count(json.loads(options.file.read_text(encoding="utf-8"))))
        return
    models = dict(model.split("=", 1) for model in options.models)
    rows = ask(json.loads(options.prompts.read_text(encoding="utf-8")), models)
    write_atomic(options.output, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
