"""One direction of imports, and what a start-up may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Rooms, lowest first, and the modules of each, lowest first. A module imports only from rooms below its own, or from a
# module named before it in its room.
ROOMS: dict[str, str] = {
    "assistant": (
        "__init__ errors signals escape files device settings hub_cache shipped jsonl exact_match loops statistics "
        "paired_statistics sequential_statistics label_statistics ollama_server"
    ),
    "assistant.dataset": (
        "__init__ rows sources json_rows columns tables formats checks examples conversations forms instructions "
        "convert splits trained_prompts check prompts context tokenizer_json added_tokens byte_pairs tokenizer encode "
        "jinja_process own_template labelled"
    ),
    "assistant.model": (
        "__init__ config digest trained_data packing compiled fused block linear llama gpt lora folder weights peft "
        "templates checkpoint heads scratch"
    ),
    "assistant.decoding": (
        "__init__ reply kernels step decoder continuations sampling generated inspection speculative engine "
        "stop_strings session"
    ),
    "assistant.training": (
        "__init__ malloc distributed precision sharding batches recipe collate loss optimizer events run_folder "
        "validation trainer dpo frozen classification tasks forecast finetune plots"
    ),
    "assistant.classifier": "__init__ label_files split scores report picture model_folder inference label_rows review",
    "assistant.interop": (
        "__init__ modelfile gguf_tokenizer gguf_tensors gguf_reader gguf gguf_import ollama book_classifier book_names "
        "pth transfer repository hub inventory known"
    ),
    "assistant.chat": (
        "__init__ records conversation events commands conversation_file inputs store markdown_text export words "
        "scores growth nearest heldout find_rows tally prompt_parts tokens models worker front state asking chat "
        "actions setup"
    ),
    "assistant.tui": (
        "__init__ markdown clipboard terminal driver ends modal line_input help status raw_text prompt foot title "
        "tally_bar cards welcome turn_state growing_text answer_view markdown_answer turn_view conversation_view "
        "token_view prompt_view settings_form correction sessions growth_view bridge foot_state dialogs "
        "conversation_screen slash themes palette screen app"
    ),
    "assistant.cli": (
        "__init__ console options demo_model progress doctor datasets data job label_job finetune classify prefer "
        "export import_command models demo ask plain_front plain chat app"
    ),
    "assistant.__main__": "",
    "evaluation": "__init__ figures next_command",
    "evaluation.answers": "__init__ bits folder metrics records files response_facts responses",
    "evaluation.judging": (
        "__init__ control_tokens event_loop repeatability verdict judgement calls hosts ledger rubric controls "
        "pairwise rubric_files judge_options settled transport ollama_client openai_client judge trust check_findings "
        "verdict_cache work pair_judge judge_check pair_runs scoring row_outcome"
    ),
    "evaluation.people": "__init__ agreement labels label_screen pairs",
    "evaluation.reports": (
        "__init__ charts rows exports values advice gates judge_findings changed_rows compare comparison_view notes "
        "report score_log siblings words page index render"
    ),
    "evaluation.cli": "__init__ people progress reports judge app",
    "evaluation.__main__": "",
    "data": "__init__",
    "data.lexicon": "__init__ english tables draw clauses relations corpus",
    "data.authoring": "__init__ questions instructions practice talk pocket",
}
WITHOUT_TORCH = (
    *(
        "assistant",
        "assistant.dataset",
        "assistant.chat",
        "assistant.tui",
        "evaluation",
        "evaluation.answers",
        "evaluation.judging",
    ),
    *("evaluation.people", "evaluation.reports", "evaluation.cli"),
)
"""Rooms whose modules import no torch while they are imported themselves, so that commands start at once."""
ORDER = {
    room if name == "__init__" or not name else f"{room}.{name}": (floor, place)
    for floor, (room, names) in enumerate(ROOMS.items())
    for place, name in enumerate(names.split() or [""])
}
HOMES = {
    "textual": ("assistant.tui", "evaluation.people.label_screen"),
    "ollama": ("evaluation.judging.ollama_client",),
    "pandas": ("evaluation.reports.report",),
    "jinja2": ("evaluation.reports.page", "assistant.dataset.jinja_process"),
    "matplotlib": ("assistant.training.plots", "assistant.classifier.picture"),
    "pyarrow": ("assistant.dataset.tables", "assistant.dataset.convert"),
    "typer": ("assistant.cli", "evaluation.cli"),
}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in ("assistant", "evaluation", "data"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


@cache
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


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set(ORDER)


def test_the_house_table_of_contributing_is_complete() -> None:
    table = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([a-z/]+)/` \|[^|]*\|([^|]+)\|$", table, flags=re.MULTILINE)
    written = {room.replace("/", "."): re.findall(r"`(\w+)`", cells) for room, cells in shown}
    expected = {
        room: [name for name in reversed(names.split()) if not name.startswith("__")]
        for room, names in ROOMS.items()
        if room.partition(".")[0] != "data"
    }
    assert written == {room: names for room, names in expected.items() if names}


def test_every_room_says_what_lives_there() -> None:
    for room in ROOMS:
        path = modules().get(room)
        if path is not None and path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), room


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name: str) -> None:
    for imported in imports(modules()[name]):
        if imported in ORDER and imported != name:
            assert ORDER[imported] < ORDER[name], f"{name} imports {imported} from above"


@pytest.mark.parametrize("name", sorted(modules()))
def test_packages_stay_in_their_homes(name: str) -> None:
    for imported in imports(modules()[name]):
        package = imported.partition(".")[0]
        homes = HOMES.get(package, (name,))
        assert any(f"{name}.".startswith(f"{home}.") for home in homes), f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.rpartition(".")[0] in WITHOUT_TORCH))
def test_light_rooms_import_no_torch(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    packages = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    packages |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert not any(package.partition(".")[0] == "torch" for package in packages)


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (["-m", "assistant", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-m", "assistant", "finetune", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-m", "assistant", "prefer", "--help"], "torch pandas matplotlib textual ollama transformers"),
        (["-m", "evaluation", "--help"], "torch pandas matplotlib textual ollama transformers jinja2"),
        (["-c", "import assistant.tui.app"], "torch pandas matplotlib ollama transformers"),
        (["-c", "import assistant.chat.models, assistant.chat.prompt_parts, assistant.chat.tokens"], "torch textual"),
    ],
)
def test_starting_stays_light(command: list[str], heavy: str) -> None:
    code = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "assistant" in loaded
    assert not loaded & set(heavy.split())
