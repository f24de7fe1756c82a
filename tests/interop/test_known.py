"""`assistant models --known`: the models to choose a base from, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.hub_cache import KNOWN_MODELS
from assistant.interop import hub as hub_module
from assistant.interop.inventory import list_models
from assistant.interop.known import KNOWN, MODES, KnownModel, read_costs
from assistant.model.checkpoint import read_config, save_checkpoint
from assistant.model.config import parse_config
from assistant.shipped import find_model
from benchmarks.bases import PAGE, SHAPES, table
from tests.interop.test_hub import Heard
from tests.support.commands import invoke
from tests.support.hub_double import HubDouble
from tests.support.marked import save_both
from tests.support.models import load_model, tiny_llama

NAMES = [known.name for known in KNOWN]


def test_all_short_names_are_known() -> None:
    assert NAMES == ["pocket", *KNOWN_MODELS] == ["pocket", *SHAPES]


def test_pocket_is_as_its_folder_says() -> None:
    folder = find_model("pocket")
    assert KNOWN[0].parameters == load_model(folder).n_parameters
    assert KNOWN[0].context == read_config(folder).context_length


@pytest.mark.parametrize("known", KNOWN[1:], ids=NAMES[1:])
def test_parameters_and_context_are_those_of_transformers(known: KnownModel) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[known.name]))
    assert known.parameters == sum(weight.numel() for weight in theirs.parameters())
    assert known.context == parse_config(SHAPES[known.name]).context_length == theirs.config.max_position_embeddings


def test_every_model_has_a_cost_and_the_page_has_the_table() -> None:
    costs = read_costs()["costs"]
    assert list(costs) == NAMES
    for name, modes in costs.items():
        assert list(modes) == list(MODES), name
    assert f"\n{table()}\n" in PAGE.read_text(encoding="utf-8")


def test_the_table_says_what_is_here(
    hub: HubDouble, byte_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here() -> set[str]:
        lines = invoke("models", "--known").stdout.splitlines()[1:]
        assert [line.split()[0] for line in lines] == NAMES
        return {line.split()[0] for line in lines if line.endswith(" yes")}

    assert here() == {"pocket"}
    tokenizer, _ = save_both(tmp_path / "smol", byte_tokenizer, "smollm2")
    save_checkpoint(tiny_llama(tokenizer), tmp_path / "smol")
    hub.add(KNOWN_MODELS["smollm2-135m"], {path.name: path.read_bytes() for path in (tmp_path / "smol").iterdir()})
    for name in ("gpt2", "smollm2-135m"):
        hub_module.pull(name, Heard())
    assert here() == {"pocket", "gpt2", "smollm2-135m"}
    assert {entry.name for entry in list_models([Path()])} == here()
    content = json.loads(invoke("models", "--known", "--json").stdout)
    assert {model["name"] for model in content["known"] if model["is_here"]} == here()
    assert content["costs"] == read_costs()["costs"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    shown = invoke("models", "--known").stdout
    assert "\x1b[1mpocket" in shown
    assert "\x1b[1mgpt2-xl" not in shown


def test_get_one_and_no_other_folder() -> None:
    assert "assistant pull NAME" in invoke("models", "--known").stderr
    assert "--known: expected without --dir" in invoke("models", "--known", "--dir", ".").stderr
