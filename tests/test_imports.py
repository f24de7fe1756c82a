"""One direction of imports, and what a start-up may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY

# A module imports only from floors below its own, or from a module named earlier on its floor.
FLOORS: list[list[str]] = [
    [
        "assistant", "assistant.errors", "assistant.escape", "assistant.files", "assistant.memory", "assistant.config",
        "assistant.shipped", "assistant.instructions", "assistant.splits", "assistant.check", "assistant.prompts",
        "assistant.tokenizer", "assistant.reply_text", "assistant.fair_lock",
        "assistant.ollama_server", "assistant.settings",
        "evaluation", "evaluation.escape", "evaluation.metrics", "evaluation.statistics", "evaluation.rubric",
        "evaluation.judgement", "evaluation.judge", "evaluation.ledger",
    ],
    [
        "assistant.kernels", "assistant.fused", "assistant.distributed", "assistant.layout", "assistant.linear",
        "assistant.model", "assistant.lora", "assistant.decoder", "assistant.sharding", "assistant.collate",
        "assistant.checkpoint",
    ],
    [
        "assistant.watching", "assistant.update", "assistant.sampling", "assistant.drafting", "assistant.generate",
        "assistant.run_folder",
        "assistant.validation", "assistant.trainer", "assistant.preference", "assistant.planning",
        "assistant.finetune", "assistant.scratch", "assistant.plots",
    ],
    ["assistant.session", "evaluation.responses", "evaluation.scoring", "evaluation.report", "evaluation.render"],
    [
        "assistant.terminal", "assistant.doctor", "assistant.data_commands", "assistant.finetune_command",
        "assistant.prefer_command",
        "assistant.demo", "assistant.tui",
        "assistant.cli", "assistant.__main__", "evaluation.cli", "evaluation.__main__",
    ],
    [
        "data", "data.lexicon", "data.lexicon.english", "data.lexicon.tables", "data.lexicon.draw",
        "data.lexicon.relations", "data.lexicon.corpus", "data.authoring", "data.authoring.questions",
        "data.authoring.instructions", "data.authoring.pocket",
    ],
]  # fmt: skip
ORDER = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)}
HOMES = {
    "textual": "assistant.tui",
    "ollama": "evaluation.judge",
    "pandas": "evaluation.report",
    "matplotlib": "assistant.plots",
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("assistant", "evaluation", "data"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


def unit(name: str) -> str:
    """The chat's widgets count as one."""
    return "assistant.tui" if name.startswith("assistant.tui") else name


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, those for type checking alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_its_floor() -> None:
    assert {unit(name) for name in modules()} == set(ORDER)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name: str) -> None:
    for imported in imports(modules()[name]):
        target = unit(imported)
        if target in ORDER and target != unit(name):
            assert ORDER[target] < ORDER[unit(name)], f"{name} imports {imported} from above"


@pytest.mark.parametrize("name", sorted(modules()))
def test_packages_stay_in_their_homes(name: str) -> None:
    for imported in imports(modules()[name]):
        package = imported.partition(".")[0]
        assert HOMES.get(package, unit(name)) == unit(name), f"{name} imports {imported}"
        if name.startswith("assistant"):
            assert package != "evaluation", f"{name} imports {imported}"
        if ORDER[unit(name)][0] == 0:
            assert package != "torch", f"{name} imports torch"


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (["-m", "assistant", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-m", "assistant", "finetune", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-m", "assistant", "prefer", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-m", "evaluation", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-c", "import assistant.tui"], "torch pandas matplotlib ollama transformers"),
    ],
)
def test_starting_stays_light(command: list[str], heavy: str) -> None:
    code = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "assistant" in loaded
    assert not loaded & set(heavy.split())
