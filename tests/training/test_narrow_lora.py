"""LoRA in bfloat16: frozen weights that exist once, in bfloat16, and results that are merged into the stored ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, SettingsError
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from assistant.model.gpt import GPTClassifier
from assistant.model.linear import Linear
from assistant.model.lora import adapted_layers
from assistant.settings import ClassifierSettings, FinetuneSettings, LoraSettings
from assistant.training.events import VALIDATION_FILE
from assistant.training.finetune import finetune
from assistant.training.forecast import forecast
from assistant.training.run_folder import METRICS_FILE, RunFolder, read_records
from assistant.training.tasks import make_trainer
from tests.support.commands import FINETUNE, invoke, start_two
from tests.support.families import EOS, train
from tests.support.models import tiny_checkpoint, tiny_llama
from tests.support.runs import Watcher, records_without_seconds, weights

RUN = FinetuneSettings(
    max_steps=4, batch_size=8, learning_rate=1e-2, precision="bfloat16", lora=LoraSettings(rank=3), validation_answers=0
)
DPO = RUN.model_copy(update={"beta": 0.3, "batch_size": 4})
LABELS = RUN.model_copy(update={"template": "text", "classifier": ClassifierSettings(trained="all")})
ADAPTER = Path("adapter/adapter_model.safetensors")


@cache
def family_tokenizer() -> str:
    """The `tokenizer.json` of a small tokenizer."""
    return str(train("smollm", vocab_size=400, n_texts=100).to_str())


def save_base(
    folder: Path, tokenizer: Tokenizer, kind: str = "gpt2", dtype: torch.dtype = torch.float32, **shape: int
) -> Path:
    """A tiny model of a family, with numbers that bfloat16 has not, unless it is stored in that."""
    if kind == "gpt2":
        checkpoint = tiny_checkpoint(tokenizer, **shape)
    else:
        checkpoint = tiny_llama(tokenizer, model_type=kind, **{"head_dim": 8, "vocab_size": 410} | shape)
    save_checkpoint(checkpoint, folder, dtype=dtype)
    if kind != "gpt2":
        (folder / "tokenizer.json").write_text(family_tokenizer(), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))
        for name in ("config.json", "generation_config.json"):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | {"eos_token_id": 401, "bos_token_id": 400}))
    return folder


def run(
    base: Path,
    examples: list[Example],
    output: Path,
    settings: FinetuneSettings = RUN,
    *,
    stop_at: int | None = None,
    wide: bool = False,
) -> Watcher:
    """Fine-tune from a folder as the command does, or resume. With `wide` the weights are float32, with copies."""
    watcher, state, splits = Watcher(), RunFolder(output).read_state(), split_examples(examples)
    is_classifier = settings.classifier is not None
    if wide:
        trainer = make_trainer(load_checkpoint(base, may_classify=is_classifier), splits, settings)
    else:
        trainer = make_trainer(base, splits, settings)
    finetune(
        trainer,
        RunFolder(output),
        data_files=["rows.json"],
        observer=watcher,
        should_stop=lambda: len(watcher.steps) == stop_at,
        resume_from=state,
        base_folder=base,
    )
    return watcher


def merged_by_hand(base: Path, adapter: Path, scale: float) -> dict[str, torch.Tensor]:
    """The stored weights with the adapter of a run added in float32."""
    merged = {name: value.float() for name, value in load_file(base / "model.safetensors").items()}
    matrices = load_file(adapter)
    for name, value in matrices.items():
        if name.endswith("lora_A.weight"):
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            update = (matrices[name.replace("lora_A", "lora_B")] @ value) * scale
            merged[f"{layer}.weight"] += update.T if layer.startswith("transformer.") else update
    return merged


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("gpt2", torch.float32),
        ("gpt2", torch.bfloat16),
        ("llama", torch.bfloat16),
        ("qwen2", torch.bfloat16),
        ("qwen3", torch.float32),
    ],
)
def test_the_weights_exist_once_and_the_result_is_merged_into_the_stored_ones(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], kind: str, dtype: torch.dtype
) -> None:
    base = save_base(tmp_path / "base", byte_tokenizer, kind, dtype)
    trainer = make_trainer(base, split_examples(examples), RUN)
    model = trainer.model
    for name, weight in model.named_parameters():
        is_matrix = weight.dim() == 2 and ".lora_" not in name and "wpe" not in name
        rounds_nothing = "wte" not in name or dtype is torch.bfloat16
        assert weight.dtype is (torch.bfloat16 if is_matrix and rounds_nothing else torch.float32), name
    for layer in adapted_layers(model).values():
        assert isinstance(layer.base, Linear)
        assert layer.base.current_copy().data_ptr() == layer.base.weight.data_ptr()
    head_is_embedding = model.lm_head.current_copy().data_ptr() == model.transformer.wte.weight.data_ptr()
    assert head_is_embedding == (dtype is torch.bfloat16)

    run(base, examples, tmp_path / "run")
    result = load_file(tmp_path / "run" / "model.safetensors")
    expected = merged_by_hand(base, tmp_path / "run" / ADAPTER, RUN.lora.scale if RUN.lora else 0)
    assert result.keys() == expected.keys()
    stored = load_file(base / "model.safetensors")
    for name, value in result.items():
        assert value.dtype is torch.float32
        assert torch.allclose(value, expected[name], rtol=0, atol=1e-7), name
    changed = {name for name, value in result.items() if not torch.equal(value, stored[name].float())}
    assert changed == {
        f"{name.removeprefix('base_model.model.').removesuffix('.lora_A.weight')}.weight"
        for name in load_file(tmp_path / "run" / ADAPTER)
        if "lora_A" in name
    }


@pytest.mark.parametrize(
    ("settings", "kind", "checkpointing"),
    [(RUN, "gpt2", False), (RUN, "qwen3", True), (DPO, "qwen3", False), (LABELS, "gpt2", True)],
    ids=["answers", "checkpointing", "dpo", "labels"],
)
def test_a_run_learns_the_bytes_that_float32_weights_with_bfloat16_copies_learn(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    examples: list[Example],
    pairs: list[Example],
    labelled: list[Example],
    settings: FinetuneSettings,
    kind: str,
    checkpointing: bool,
) -> None:
    rows = pairs if settings is DPO else labelled if settings is LABELS else examples
    settings = settings.model_copy(update={"gradient_checkpointing": checkpointing})
    base = save_base(tmp_path / "base", byte_tokenizer, kind)
    run(base, rows, tmp_path / "narrow", settings)
    run(base, rows, tmp_path / "wide", settings, wide=True)
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    assert records_without_seconds(narrow / METRICS_FILE) == records_without_seconds(wide / METRICS_FILE)
    losses = [
        [record["validation_loss"] for record in records_without_seconds(folder / VALIDATION_FILE)]
        for folder in (narrow, wide)
    ]
    assert losses[0] == losses[1]
    assert (narrow / ADAPTER).read_bytes() == (wide / ADAPTER).read_bytes()
    assert weights(narrow) == weights(wide)


@pytest.mark.parametrize(("settings", "kind"), [(RUN, "qwen3"), (DPO, "gpt2"), (LABELS, "gpt2")])
def test_a_resumed_run_gives_the_bytes_of_one_that_was_not_stopped(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    examples: list[Example],
    pairs: list[Example],
    labelled: list[Example],
    settings: FinetuneSettings,
    kind: str,
) -> None:
    rows = pairs if settings is DPO else labelled if settings is LABELS else examples
    base = save_base(tmp_path / "base", byte_tokenizer, kind)
    run(base, rows, tmp_path / "whole", settings)
    run(base, rows, tmp_path / "parts", settings, stop_at=3)
    run(base, rows, tmp_path / "parts", settings)
    for name in (Path("model.safetensors"), ADAPTER, "last" / ADAPTER):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_base_that_is_gone_or_another_stops_the_run_with_a_sentence(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    base, output = save_base(tmp_path / "base", byte_tokenizer), tmp_path / "run"
    trainer = make_trainer(base, split_examples(examples), RUN)

    def go(trainer_checkpoint: Checkpoint) -> None:
        save_checkpoint(trainer_checkpoint, tmp_path / "saved")

    go(trainer.checkpoint)
    base.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"weights that were opened before, got no such file\. Put the model"):
        go(trainer.checkpoint)
    shutil.copytree(tmp_path / "moved", base)
    stored = load_file(base / "model.safetensors")
    save_file({name: value + 1 for name, value in stored.items()}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"weights that were opened before, got others\. Put the model"):
        go(trainer.checkpoint)
    # A resumed run compares the numbers themselves.
    run(tmp_path / "moved", examples, output, stop_at=2)
    with pytest.raises(SettingsError, match="expected the model that the run began with, got other weights"):
        run(base, examples, output)


@pytest.mark.usefixtures("folder")
def test_a_resumed_run_whose_base_is_gone_says_so() -> None:
    words = ["finetune", "rows.json", "-m", "base", "-o", "out", *FINETUNE, "--lora", "--precision", "bfloat16"]
    assert invoke(*words, "--keep-state", "--max-steps", "1").exit_code == 0
    shutil.move("base", "gone")
    done = invoke(*words, "--resume", "--max-steps", "2")
    assert done.exit_code == 1
    assert "base: expected a model folder, got no such folder. Check the path." in done.output
    shutil.move("gone", "base")
    assert invoke(*words, "--resume", "--max-steps", "2").exit_code == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_was_tied_is_the_embedding_as_it_is_stored(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], dtype: torch.dtype
) -> None:
    base = save_base(tmp_path / "base", byte_tokenizer, dtype=dtype)
    settings = RUN.model_copy(update={"book": True, "train_on": "all"})
    run(base, examples, tmp_path / "run", settings)
    result, stored = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", base))
    assert torch.equal(result["lm_head.weight"], stored["transformer.wte.weight"].float())


def test_an_adapters_folder_is_a_base_whose_weights_stay_float32(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    base = save_base(tmp_path / "base", byte_tokenizer)
    run(base, examples, tmp_path / "first")
    adapter = tmp_path / "first" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    trainer = make_trainer(adapter, split_examples(examples), RUN)
    assert trainer.precision_name == "bfloat16"
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    run(adapter, examples, tmp_path / "second")


def test_a_classifier_with_lora_learns_on_and_keeps_a_float32_head(
    tmp_path: Path, byte_tokenizer: Tokenizer, labelled: list[Example]
) -> None:
    base = save_base(tmp_path / "base", byte_tokenizer)
    run(base, labelled, tmp_path / "first", LABELS)
    trainer = make_trainer(tmp_path / "first", split_examples(labelled), LABELS)
    assert isinstance(trainer.model, GPTClassifier)
    assert trainer.model.score.weight.dtype is torch.float32
    run(tmp_path / "first", labelled, tmp_path / "second", LABELS)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert not torch.equal(first["score.weight"], second["score.weight"])


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_run_without_compiled_loops_and_its_forecast_and_answers(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, settings = (
        save_base(tmp_path / "base", byte_tokenizer, kind),
        RUN.model_copy(update={"validation_answers": 2}),
    )
    trainer = make_trainer(base, split_examples(examples), settings)
    assert forecast(trainer, save_seconds=60.0, folder=tmp_path / "base").steps == trainer.total_steps
    monkeypatch.setattr(fused, "is_compiled", lambda: False)
    watcher = run(base, examples, tmp_path / "run", settings)
    assert not watcher.warnings
    assert all(len(report.samples) == 2 for report in watcher.validations)


@pytest.mark.long
def test_two_processes_give_the_losses_of_one(folder: Path) -> None:
    words = ("finetune", "rows.json", "-m", "base", *FINETUNE, "--lora", "--precision", "bfloat16", "--max-steps", "3")
    assert invoke(*words, "-o", "one").exit_code == 0
    process = start_two(*words, "-o", "two")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    one, two = ([record["loss"] for record in read_records(folder / name / METRICS_FILE)] for name in ("one", "two"))
    assert two == pytest.approx(one, abs=0.02)


PEAK = """
import sys, torch
from pathlib import Path
from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.model.checkpoint import save_checkpoint
from assistant.settings import FinetuneSettings, LoraSettings
from assistant.training.tasks import make_trainer

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

def train(base):
    settings = FinetuneSettings(batch_size=2, precision="bfloat16", lora=LoraSettings(), validation_answers=0)
    rows = [Example(instruction=f"Say {n}.", output=f"{n}", row=n) for n in range(40)]
    trainer = make_trainer(Path(base), split_examples(rows), settings)
    for step, (_, window) in zip(range(1, 4), trainer.windows(0)):
        trainer.train_step(step, window)
    save_checkpoint(trainer.checkpoint, Path(base) / "saved")
    return trainer

torch.set_num_threads(1)
train(sys.argv[2])  # a tiny model, so that all modules are loaded
before = kilobytes("VmRSS")
trainer = train(sys.argv[1])
print((kilobytes("VmHWM") - before) * 1024 / (2 * trainer.model.n_parameters))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_loading_training_and_saving_take_little_more_memory_than_the_weights_in_bfloat16(
    tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    """Float32 weights with copies of them alone take 3. Activations, gradients and one merged matrix take 1 here."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 30_000}
    save_base(tmp_path / "m", byte_tokenizer, "llama", torch.bfloat16, **shape)
    save_base(tmp_path / "tiny", byte_tokenizer, "llama", torch.bfloat16)
    words = [sys.executable, "-c", PEAK, str(tmp_path / "m"), str(tmp_path / "tiny")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 2.8
