"""DPO: the loss equals a plain computation and TRL's, and a run can be resumed at any step."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from assistant.dataset.encode import EncodedExample, encode_examples
from assistant.dataset.instructions import Example, dump_rows, read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import data_fingerprint, split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, DataError, SettingsError
from assistant.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from assistant.model.gpt import GPT
from assistant.settings import FinetuneSettings, LoraSettings
from assistant.training.dpo import PreferenceTrainer
from assistant.training.run_folder import read_records
from assistant.training.tasks import make_trainer
from assistant.training.trainer import Trainer
from tests.support.commands import invoke
from tests.support.models import tiny_checkpoint
from tests.support.rows import plain_log_probability
from tests.support.runs import records_without_seconds, train, weights

FAST = FinetuneSettings(
    beta=0.3, epochs=2, batch_size=4, learning_rate=1e-3, precision="float32", weight_decay=0.0, validation_answers=2
)
"""Settings for `train` with few steps: 9 per epoch of the 34 training pairs of the `pairs` fixture."""


def trainer_with_reference(tokenizer: Tokenizer, pairs: list[Example]) -> PreferenceTrainer:
    """Return a trainer of a tiny model that has computed the log-probabilities of the starting weights."""
    trainer = PreferenceTrainer(tiny_checkpoint(tokenizer), split_examples(pairs), FAST)
    trainer.compute_reference()
    return trainer


def perturb(model: GPT) -> None:
    """Add random numbers to all weights, as if the model had been trained."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def plain_dpo_loss(model: GPT, starting_model: GPT, rows: Sequence[EncodedExample], beta: float) -> torch.Tensor:
    """Return the mean DPO loss of pairs, computed answer by answer."""
    losses = []
    for row in rows:
        assert row.rejected is not None
        with torch.no_grad():
            before = [plain_log_probability(starting_model, answer) for answer in (row, row.rejected)]
        now = [plain_log_probability(model, answer) for answer in (row, row.rejected)]
        losses.append(-F.logsigmoid(beta * ((now[0] - before[0]) - (now[1] - before[1]))))
    return torch.stack(losses).mean()


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_starts_at_log_2(byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    trainer = trainer_with_reference(byte_tokenizer, pairs)
    means = trainer.evaluate(trainer.validation.rows)
    # The reference was computed in the same batches, so there is not even a rounding error.
    assert means == {"loss": pytest.approx(math.log(2), abs=1e-7), "reward_accuracy": 0.0, "margin": 0.0}
    metrics = trainer.train_step(1, next(window for _, window in trainer.windows(0)))
    assert metrics.loss == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_loss_and_gradients_equal_a_plain_computation(
    byte_tokenizer: Tokenizer, pairs: list[Example], padded: bool
) -> None:
    trainer = trainer_with_reference(byte_tokenizer, pairs)
    trainer.reference = padded
    starting_model, rows = tiny_checkpoint(byte_tokenizer).model, trainer.train.rows[:5]
    perturb(trainer.model)
    loss = trainer.loss_sums(rows, "response")["loss"] / len(rows)
    expected_loss = plain_dpo_loss(trainer.model, starting_model, rows, 0.3)
    assert abs(expected_loss.item() - math.log(2)) > 0.01
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    names = [name for name, _ in trainer.model.named_parameters()]
    gradients = [torch.autograd.grad(value, list(trainer.model.parameters())) for value in (loss, expected_loss)]
    for name, gradient, expected in zip(names, *gradients, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5), name


TRL = """
import json, sys, torch
from datasets import Dataset
from datasets.table import InMemoryTable
from transformers import AutoTokenizer, GPT2LMHeadModel
from trl import DPOConfig, DPOTrainer

class Trainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *arguments, **options):
        return dataset  # it has token ids already

rows = json.load(open("pairs.json"))
tokenizer = AutoTokenizer.from_pretrained("start")
tokenizer.pad_token = tokenizer.eos_token
trainer = Trainer(
    model=GPT2LMHeadModel.from_pretrained("perturbed"),
    ref_model=GPT2LMHeadModel.from_pretrained("start"),
    args=DPOConfig(
        output_dir="trl", beta=0.3, use_cpu=True, bf16=False, report_to="none", max_length=None, disable_tqdm=True
    ),
    train_dataset=Dataset(InMemoryTable.from_pylist(rows), fingerprint="pairs"),
    processing_class=tokenizer,
)
trainer.model.eval()
loss = trainer._compute_loss(trainer.model, trainer.data_collator(rows), False)
loss.backward()
norm = torch.stack([parameter.grad.norm() for parameter in trainer.model.parameters()]).norm()
metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
print(json.dumps({"loss": loss.item(), "norm": norm.item(), **metrics}))
"""


@pytest.mark.oracle
def test_loss_and_metrics_equal_those_of_trl(tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    """Loss, gradient norm, accuracy and margin of TRL's DPOTrainer with transformers' GPT-2 on the same weights."""
    for package in ("trl", "datasets", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    trainer = trainer_with_reference(byte_tokenizer, pairs)
    rows = trainer.train.rows[:6]
    save_checkpoint(trainer.checkpoint, tmp_path / "start")
    perturb(trainer.model)
    save_checkpoint(trainer.checkpoint, tmp_path / "perturbed")
    ids = [
        {
            "prompt_ids": row.input_ids[: row.prompt_length],
            "chosen_ids": row.input_ids[row.prompt_length :],
            "rejected_ids": row.rejected.input_ids[row.prompt_length :],
        }
        for row in rows
        if row.rejected is not None
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(ids))
    completed = subprocess.run(
        [sys.executable, "-c", TRL], cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    expected = json.loads(completed.stdout.splitlines()[-1])
    sums = trainer.loss_sums(rows, "response")
    (sums["loss"] / len(rows)).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters() if p.grad is not None])
    assert sums["loss"].item() / len(rows) == pytest.approx(expected["loss"], rel=1e-5)
    assert sums["margin"].item() / len(rows) == pytest.approx(expected["rewards/margins"], rel=1e-3)
    assert sums["reward_accuracy"].item() / len(rows) == pytest.approx(expected["rewards/accuracies"])
    assert norm.item() == pytest.approx(expected["norm"], rel=1e-4)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraSettings()])
def test_training_raises_the_margin_of_unseen_pairs(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example], lora: LoraSettings | None
) -> None:
    rate = 1e-3 if lora is None else 1e-2
    settings = FAST.model_copy(update={"epochs": 4, "lora": lora, "learning_rate": rate})
    result, watcher = train(byte_tokenizer, pairs, tmp_path / "run", settings)
    assert result.first_validation_loss == pytest.approx(math.log(2), abs=1e-6)
    last = watcher.validations[-1]
    assert last.margin is not None
    assert last.margin > 1
    assert last.reward_accuracy == 1.0
    assert last.validation_loss < 0.3
    assert last.supervised_tokens > 2 * len(pairs[0].output)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert all({"loss", "reward_accuracy", "margin"} <= record.keys() for record in records)
    assert records[-1]["margin"] > records[1]["margin"]
    assert read_records(tmp_path / "run" / "validation.jsonl")[-1]["margin"] == last.margin
    info = load_checkpoint(tmp_path / "run").info
    assert info is not None
    assert info.finetune.beta == 0.3


@pytest.mark.parametrize(("stop_at", "lora"), [(1, None), (5, None), (9, None), (12, None), (5, LoraSettings())])
def test_a_stopped_run_resumes_to_the_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example], stop_at: int, lora: LoraSettings | None
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = FAST.model_copy(update={"lora": lora, "validate_every": 2})
    uninterrupted, _ = train(byte_tokenizer, pairs, whole, settings)
    stopped, _ = train(byte_tokenizer, pairs, parts, settings, stop_at=stop_at)
    assert stopped.stopped
    resumed, watcher = train(byte_tokenizer, pairs, parts, settings, resume=True)
    assert watcher.plans[0].first_step == stop_at
    assert resumed.best_validation_loss == uninterrupted.best_validation_loss
    for name in (".", "last"):
        assert weights(parts / name) == weights(whole / name)
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert records_without_seconds(parts / name) == records_without_seconds(whole / name)


def test_a_run_without_its_reference_is_not_resumed(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]
) -> None:
    train(byte_tokenizer, pairs, tmp_path / "run", FAST, stop_at=2)
    reference = tmp_path / "run" / "last" / "training" / "reference.safetensors"
    reference.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="expected the log-probabilities of the run's start"):
        train(byte_tokenizer, pairs, tmp_path / "run", FAST, resume=True)
    reference.unlink()
    with pytest.raises(CheckpointError, match=r"of shape \(34, 2\) for the train pairs, got none"):
        train(byte_tokenizer, pairs, tmp_path / "run", FAST, resume=True)


def test_accumulated_micro_batches_equal_one_large_batch(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]
) -> None:
    losses = []
    for batch_size, accumulation in ((34, 1), (3, 12)):
        changes = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "epochs": 3}
        settings = FAST.model_copy(update=changes | {"warmup_steps": 0, "max_grad_norm": 0.0})
        _, watcher = train(byte_tokenizer, pairs, tmp_path / str(batch_size), settings)
        losses.append([report.metrics.loss for report in watcher.steps])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- settings and rows that are refused ---------------------------------------------------------------------------


def test_rows_with_one_answer_are_refused(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    with pytest.raises(DataError, match=r'rows\.json, row 1: expected "chosen" and "rejected", got one answer'):
        make_trainer(tiny_checkpoint(byte_tokenizer), split_examples(examples), FAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_on": "all"}, "--beta: expected to learn from responses only, got --train-on all too"),
        ({"book": True}, "--beta: expected to learn from responses only, got --book too"),
        ({"loss_per": "row"}, "--beta: expected the loss of preferences, which is per pair, got --loss-per row"),
        ({"beta": None}, "--beta: expected a number above 0"),
    ],
)
def test_settings_that_do_not_apply_to_pairs_are_refused(
    byte_tokenizer: Tokenizer, pairs: list[Example], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        PreferenceTrainer(tiny_checkpoint(byte_tokenizer), split_examples(pairs), FAST.model_copy(update=changes))


def test_without_a_beta_only_the_chosen_answers_are_learnt(byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    trainer = make_trainer(tiny_checkpoint(byte_tokenizer), split_examples(pairs), FinetuneSettings())
    assert type(trainer) is Trainer
    assert all(row.rejected is None for row in trainer.train.rows)


# --- the command --------------------------------------------------------------------------------------------------


def data_and_split(checkpoint: Checkpoint) -> tuple[str, int]:
    assert checkpoint.info is not None
    return checkpoint.info.data_fingerprint, checkpoint.info.split_seed


def test_prefer_keeps_the_template_and_the_split_of_its_model(folder: Path, pairs: list[Example]) -> None:
    (folder / "pairs.json").write_text(dump_rows(pairs))
    finetune = ("finetune", "pairs.json", "-m", "base", "-o", "tuned", "--template", "phi3", "--max-steps", "3")
    assert invoke(*finetune).exit_code == 0
    prefer = ("prefer", "pairs.json", "-m", "tuned", "-o", "out", "--learning-rate", "1e-3", "--epochs", "3")
    completed = invoke(*prefer, "--json")
    assert completed.exit_code == 0, completed.output
    assert json.loads(completed.stdout)["best_validation_loss"] < math.log(2)
    assert "step 1/27: loss 0.693, " in completed.stderr
    assert "reward accuracy 100 %, margin " in completed.stderr
    tuned, preferred = load_checkpoint(folder / "tuned"), load_checkpoint(folder / "out")
    assert preferred.template == tuned.template == get_template("phi3")  # without a --template for prefer
    assert data_and_split(preferred) == data_and_split(tuned)  # so the same rows are held out again
    assert (folder / "out" / "loss.png").exists()
    assert "this run is finished already" in invoke(*prefer, "--resume").stderr


def test_prefer_refuses_a_wrong_beta_and_rows_with_one_answer(folder: Path, pairs: list[Example]) -> None:
    (folder / "pairs.json").write_text(dump_rows(pairs))
    refused = invoke("prefer", "pairs.json", "-m", "base", "-o", "out", "--beta", "0")
    assert refused.exit_code == 2
    assert "--beta: expected greater than 0, got 0.0." in refused.stderr
    refused = invoke("prefer", "rows.json", "-m", "base", "-o", "out")
    assert refused.exit_code == 1
    assert 'rows.json, row 1: expected "chosen" and "rejected", got one answer.' in refused.stderr


# --- reading and encoding pairs -----------------------------------------------------------------------------------


def test_both_answers_follow_the_same_truncated_prompt(byte_tokenizer: Tokenizer) -> None:
    template = get_template("alpaca")
    pair = Example(instruction="Say " + "long " * 60, output="Yes", rejected="n" * 40, source="pairs.json", row=1)
    encoded = encode_examples([pair], template, byte_tokenizer, max_length=300, as_pairs=True)
    (row,) = encoded.rows
    assert encoded.truncated == (pair,)
    assert row.rejected is not None
    assert len(row.rejected.input_ids) - 1 <= 300
    assert row.input_ids[: row.prompt_length] == row.rejected.input_ids[: row.prompt_length]
    assert byte_tokenizer.decode(row.input_ids[row.prompt_length : -1]) == "Yes"
    assert row.rejected.input_ids[-1] == row.input_ids[-1] == byte_tokenizer.eos_id
    assert row.n_tokens == len(row.input_ids) + len(row.rejected.input_ids)
    (chosen_only,) = encode_examples([pair], template, byte_tokenizer, max_length=400).rows
    assert chosen_only.rejected is None


def test_dumped_pairs_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    with_instruction = {
        "instruction": "Say red.", "input": "", "chosen": "Red.", "rejected": "No.", "category": "colours",
    }  # fmt: skip
    with_prompt = {"prompt": "Say blue.", "chosen": "Blue.", "rejected": "No."}
    path.write_text(json.dumps(with_instruction) + "\n" + json.dumps(with_prompt) + "\n")
    first, second = read_examples(path)
    assert (first.output, first.rejected, first.category) == ("Red.", "No.", "colours")
    assert (second.instruction, second.output, second.row) == ("Say blue.", "Blue.", 2)
    (tmp_path / "again.json").write_text(dump_rows([first, second]))
    again = read_examples(tmp_path / "again.json")
    assert [replace(row, source="") for row in again] == [replace(row, source="") for row in (first, second)]
    other = replace(first, rejected="Never.")
    assert data_fingerprint([first]) == data_fingerprint(again[:1]) != data_fingerprint([other])


def test_all_invalid_pairs_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    valid = {"instruction": "Say red.", "chosen": "Red.", "rejected": "No."}
    invalid = [
        valid | {"rejected": "Red."}, valid | {"chosen": " "}, valid | {"rejected": None},
        {"instruction": "Say red.", "rejected": "No."}, {"chosen": "Red.", "rejected": "No."},
        valid | {"chosen": [{"role": "assistant", "content": "Red."}]},
    ]  # fmt: skip
    path.write_text(json.dumps([valid, *invalid]))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert caught.value.problems == (
        f"""{path}, row 2: "rejected" must be another answer than "chosen", got 'Red.'.""",
        f"""{path}, row 3: "chosen" must contain more than white space, got ' '.""",
        f'{path}, row 4: "rejected" must be text, got null.',
        f"""{path}, row 5: "chosen" is missing (the row has 'instruction', 'rejected').""",
        f"""{path}, row 6: "instruction" is missing (the row has 'chosen', 'rejected').""",
        f'{path}, row 7: "chosen" must be text, got a list.',
    )
