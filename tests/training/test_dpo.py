"""Learning preferences: the loss is DPO's, the reference is the start, and a run can be taken up at any step."""

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
from typer.testing import CliRunner

from assistant.cli.app import app
from assistant.dataset.encode import EncodedExample, encode_examples, sequences
from assistant.dataset.instructions import Example, dump_rows, read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import data_fingerprint, split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, DataError, SettingsError
from assistant.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from assistant.model.gpt import GPT
from assistant.model.packing import PaddedRows
from assistant.settings import FinetuneSettings, LoraSettings
from assistant.training.collate import collate, pad
from assistant.training.dpo import PreferenceTrainer, make_trainer
from assistant.training.events import FinetuneResult
from assistant.training.finetune import finetune
from assistant.training.forecast import forecast
from assistant.training.loss import log_probabilities, summed_loss
from assistant.training.run_folder import RunFolder, read_records
from assistant.training.trainer import Trainer
from tests.support.commands import start_two
from tests.support.models import requires_loops, save_tiny, tiny_checkpoint
from tests.support.runs import Watcher, weights

FAST = FinetuneSettings(
    beta=0.3, epochs=2, batch_size=4, learning_rate=1e-3, precision="float32", weight_decay=0.0, validation_answers=2
)


@pytest.fixture
def pairs(examples: list[Example]) -> list[Example]:
    """Forty preferences: capitals rather than a refusal."""
    return [replace(e, rejected=f"I would not say {e.instruction.split()[1]}") for e in examples]


def trainer_of(tokenizer: Tokenizer, pairs: list[Example], settings: FinetuneSettings = FAST) -> PreferenceTrainer:
    trainer = PreferenceTrainer(tiny_checkpoint(tokenizer), split_examples(pairs), settings)
    trainer.compute_reference()
    return trainer


def move(model: GPT) -> None:
    """A step in a direction of chance."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def by_hand(model: GPT, row: EncodedExample) -> torch.Tensor:
    """Log-probability of one response, without a batch, a mask or a shift of the project's."""
    ids = torch.tensor(row.input_ids)
    likely = model.head(model(ids[None]))[0].log_softmax(dim=-1)
    places = range(row.prompt_length, len(ids))
    return torch.stack([likely[place - 1, ids[place]] for place in places]).sum()


def loss_by_hand(model: GPT, start: GPT, rows: Sequence[EncodedExample], beta: float) -> torch.Tensor:
    losses = []
    for row in rows:
        assert row.rejected is not None
        with torch.no_grad():
            before = [by_hand(start, one) for one in (row, row.rejected)]
        now = [by_hand(model, one) for one in (row, row.rejected)]
        losses.append(-F.logsigmoid(beta * ((now[0] - before[0]) - (now[1] - before[1]))))
    return torch.stack(losses).mean()


def train(
    tokenizer: Tokenizer,
    pairs: list[Example],
    output: Path,
    settings: FinetuneSettings = FAST,
    *,
    stop_at: int | None = None,
    resume: bool = False,
) -> tuple[FinetuneResult, Watcher]:
    watcher, folder = Watcher(), RunFolder(output)
    from_last = resume and settings.lora is None
    checkpoint = load_checkpoint(output / "last") if from_last else tiny_checkpoint(tokenizer)
    result = finetune(
        make_trainer(checkpoint, split_examples(pairs), settings),
        folder,
        data_files=["pairs.json"],
        observer=watcher,
        should_stop=lambda: len(watcher.steps) == stop_at,
        resume_from=folder.read_state() if resume else None,
    )
    return result, watcher


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_begins_at_log_2(byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    trainer = trainer_of(byte_tokenizer, pairs)
    found = trainer.evaluate(trainer.validation.rows)
    # The very batches that the reference was computed in, so not even rounding is left.
    assert found == {"loss": pytest.approx(math.log(2), abs=1e-7), "reward_accuracy": 0.0, "margin": 0.0}
    update = trainer.train_step(1, next(window for _, window in trainer.windows(0)))
    assert update.loss == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_loss_and_gradient_are_those_of_a_plain_computation(
    byte_tokenizer: Tokenizer, pairs: list[Example], padded: bool
) -> None:
    trainer = trainer_of(byte_tokenizer, pairs)
    trainer.reference = padded
    start, rows = tiny_checkpoint(byte_tokenizer).model, trainer.train.rows[:5]
    move(trainer.model)
    found = trainer.loss_sums(rows, "response")
    (found["loss"] / len(rows)).backward()
    gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    loss = loss_by_hand(trainer.model, start, rows, 0.3)
    loss.backward()
    assert abs(loss.item() - math.log(2)) > 0.01
    assert found["loss"].item() / len(rows) == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 6)])
@pytest.mark.parametrize("as_tree", [False, pytest.param(True, marks=requires_loops)])
def test_log_probabilities_of_rows_that_open_alike(
    byte_tokenizer: Tokenizer, pairs: list[Example], rows: slice, as_tree: bool
) -> None:
    """The two answers of a single pair share their prompt and their first words, which are computed once."""
    alike = [replace(pair, output=f"Say {pair.output}", rejected=f"Say {pair.rejected}") for pair in pairs]
    checkpoint = tiny_checkpoint(byte_tokenizer)
    encoded = encode_examples(alike[rows], checkpoint.template, byte_tokenizer, max_length=256, as_pairs=True)
    packed = collate(sequences(encoded.rows), pad_id=256, as_tree=as_tree)
    wanted = torch.stack([by_hand(checkpoint.model, row) for row in sequences(encoded.rows)])
    for batch in (packed, pad(sequences(encoded.rows), pad_id=256)):
        assert torch.allclose(log_probabilities(checkpoint.model, batch), wanted, rtol=1e-5)
        assert summed_loss(checkpoint.model, batch).item() == pytest.approx(-wanted.sum().item())
    if len(encoded.rows) == 1:
        chosen, rejected = (len(row.input_ids) - 1 for row in sequences(encoded.rows))
        assert len(packed.input_ids) < chosen + rejected - encoded.rows[0].prompt_length + 16


def test_log_probabilities_where_one_response_is_part_of_another_prompt(byte_tokenizer: Tokenizer) -> None:
    checkpoint, example = tiny_checkpoint(byte_tokenizer), Example(instruction="x", output="y")
    rows = [
        EncodedExample(input_ids=tuple(b"Say red. Red, red."), prompt_length=9, example=example),
        EncodedExample(input_ids=tuple(b"Say red. Red, blue."), prompt_length=14, example=example),
    ]
    batch = collate(rows, pad_id=256)
    assert isinstance(batch.rows, PaddedRows)
    assert batch.rows.n_shared == 14
    wanted = torch.stack([by_hand(checkpoint.model, row) for row in rows])
    assert torch.allclose(log_probabilities(checkpoint.model, batch), wanted, rtol=1e-5)


TRL = """
import json, sys, torch
from datasets import Dataset
from datasets.table import InMemoryTable
from transformers import AutoTokenizer, GPT2LMHeadModel
from trl import DPOConfig, DPOTrainer

class Trainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *arguments, **options):
        return dataset  # token ids already

rows = json.load(open("pairs.json"))
tokenizer = AutoTokenizer.from_pretrained("start")
tokenizer.pad_token = tokenizer.eos_token
trainer = Trainer(
    model=GPT2LMHeadModel.from_pretrained("moved"),
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
found = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
print(json.dumps({"loss": loss.item(), "norm": norm.item(), **found}))
"""


@pytest.mark.oracle
def test_trl_computes_the_same(tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    """Loss, gradient, accuracy and margin of TRL's own DPOTrainer, through transformers' GPT-2, on the same weights."""
    for package in ("trl", "datasets", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    trainer = trainer_of(byte_tokenizer, pairs)
    rows = trainer.train.rows[:6]
    save_checkpoint(trainer.checkpoint, tmp_path / "start")
    move(trainer.model)
    save_checkpoint(trainer.checkpoint, tmp_path / "moved")
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
    done = subprocess.run(
        [sys.executable, "-c", TRL], cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = trainer.loss_sums(rows, "response")
    (ours["loss"] / len(rows)).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters() if p.grad is not None])
    assert ours["loss"].item() / len(rows) == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["margin"].item() / len(rows) == pytest.approx(theirs["rewards/margins"], rel=1e-3)
    assert ours["reward_accuracy"].item() / len(rows) == pytest.approx(theirs["rewards/accuracies"])
    assert norm.item() == pytest.approx(theirs["norm"], rel=1e-4)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraSettings()])
def test_training_raises_the_margin_of_pairs_it_has_not_seen(
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
def test_a_stopped_run_goes_on_to_the_very_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example], stop_at: int, lora: LoraSettings | None
) -> None:
    settings = FAST.model_copy(update={"lora": lora, "validate_every": 2})
    whole, _ = train(byte_tokenizer, pairs, tmp_path / "whole", settings)
    stopped, _ = train(byte_tokenizer, pairs, tmp_path / "parts", settings, stop_at=stop_at)
    assert stopped.stopped
    resumed, watcher = train(byte_tokenizer, pairs, tmp_path / "parts", settings, resume=True)
    assert watcher.plans[0].first_step == stop_at
    assert resumed.best_validation_loss == whole.best_validation_loss
    for name in (".", "last"):
        assert weights(tmp_path / "parts" / name) == weights(tmp_path / "whole" / name)
    for name in ("metrics.jsonl", "validation.jsonl"):
        ours, theirs = (
            [{k: v for k, v in record.items() if k != "seconds"} for record in read_records(folder / name)]
            for folder in (tmp_path / "parts", tmp_path / "whole")
        )
        assert ours == theirs


def test_a_run_without_its_reference_is_not_resumed(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]
) -> None:
    train(byte_tokenizer, pairs, tmp_path / "run", stop_at=2)
    reference = tmp_path / "run" / "last" / "training" / "reference.safetensors"
    reference.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="expected the log-probabilities of the run's start"):
        train(byte_tokenizer, pairs, tmp_path / "run", resume=True)
    reference.unlink()
    with pytest.raises(CheckpointError, match=r"of shape \(34, 2\) for the train pairs, got none"):
        train(byte_tokenizer, pairs, tmp_path / "run", resume=True)


def test_accumulation_equals_the_big_batch(tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    losses = []
    for batch_size, accumulation in ((34, 1), (3, 12)):
        changes = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "epochs": 3}
        settings = FAST.model_copy(update=changes | {"warmup_steps": 0, "max_grad_norm": 0.0})
        _, watcher = train(byte_tokenizer, pairs, tmp_path / str(batch_size), settings)
        losses.append([report.metrics.loss for report in watcher.steps])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_forecast_counts_the_steps(tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    trainer = make_trainer(tiny_checkpoint(byte_tokenizer), split_examples(pairs), FAST)
    assert forecast(trainer, save_seconds=60.0, folder=tmp_path).steps == trainer.total_steps == 18


# --- rows and settings --------------------------------------------------------------------------------------------


def test_both_answers_stand_behind_the_same_prompt(byte_tokenizer: Tokenizer) -> None:
    template = get_template("alpaca")
    long = Example(instruction="Say " + "long " * 60, output="Yes", rejected="n" * 40, source="pairs.json", row=1)
    encoded = encode_examples([long], template, byte_tokenizer, max_length=300, as_pairs=True)
    (row,) = encoded.rows
    assert encoded.truncated == (long,)
    assert row.rejected is not None
    assert len(row.rejected.input_ids) - 1 <= 300
    assert row.input_ids[: row.prompt_length] == row.rejected.input_ids[: row.prompt_length]
    assert byte_tokenizer.decode(row.input_ids[row.prompt_length : -1]) == "Yes"
    assert row.rejected.input_ids[-1] == row.input_ids[-1] == byte_tokenizer.eos_id
    assert row.n_tokens == len(row.input_ids) + len(row.rejected.input_ids)
    (alone,) = encode_examples([long], template, byte_tokenizer, max_length=400).rows
    assert alone.rejected is None


def test_rows_are_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    ours = {"instruction": "Say red.", "input": "", "chosen": "Red.", "rejected": "No.", "category": "colours"}
    theirs = {"prompt": "Say blue.", "chosen": "Blue.", "rejected": "No."}
    path.write_text(json.dumps(ours) + "\n" + json.dumps(theirs) + "\n")
    first, second = read_examples(path)
    assert (first.output, first.rejected, first.category) == ("Red.", "No.", "colours")
    assert (second.instruction, second.output, second.row) == ("Say blue.", "Blue.", 2)
    (tmp_path / "again.json").write_text(dump_rows([first, second]))
    again = read_examples(tmp_path / "again.json")
    assert [replace(row, source="") for row in again] == [replace(row, source="") for row in (first, second)]
    other = replace(first, rejected="Never.")
    assert data_fingerprint([first]) == data_fingerprint(again[:1]) != data_fingerprint([other])


def test_bad_rows_are_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    good = {"instruction": "Say red.", "chosen": "Red.", "rejected": "No."}
    bad = [
        good | {"rejected": "Red."}, good | {"chosen": " "}, good | {"rejected": None},
        {"instruction": "Say red.", "rejected": "No."}, {"chosen": "Red.", "rejected": "No."},
        good | {"chosen": [{"role": "assistant", "content": "Red."}]},
    ]  # fmt: skip
    path.write_text(json.dumps([good, *bad]))
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


def test_rows_with_one_answer_are_named(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    with pytest.raises(DataError, match=r'rows\.json, row 1: expected "chosen" and "rejected", got one answer'):
        make_trainer(tiny_checkpoint(byte_tokenizer), split_examples(examples), FAST)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_on": "all"}, "--beta: expected to learn from responses only, got --train-on all too"),
        ({"book": True}, "--beta: expected to learn from responses only, got --book too"),
        ({"beta": None}, "--beta: expected a number above 0"),
    ],
)
def test_settings_that_mean_nothing_for_pairs(
    byte_tokenizer: Tokenizer, pairs: list[Example], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        PreferenceTrainer(tiny_checkpoint(byte_tokenizer), split_examples(pairs), FAST.model_copy(update=dict(changes)))


def test_without_a_beta_the_chosen_answers_are_learnt(byte_tokenizer: Tokenizer, pairs: list[Example]) -> None:
    found = make_trainer(tiny_checkpoint(byte_tokenizer), split_examples(pairs), FinetuneSettings())
    assert type(found) is Trainer
    assert all(row.rejected is None for row in found.train.rows)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a base model and preferences."""
    save_tiny(tmp_path / "base", byte_tokenizer)
    (tmp_path / "pairs.json").write_text(dump_rows(pairs))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(folder: Path) -> None:
    tuned = ("finetune", "pairs.json", "-m", "base", "-o", "tuned", "--template", "phi3", "--max-steps", "3")
    assert CliRunner().invoke(app, tuned).exit_code == 0
    words = ("prefer", "pairs.json", "-m", "tuned", "-o", "out", "--learning-rate", "1e-3", "--epochs", "3")
    done = CliRunner().invoke(app, (*words, "--json"))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["best_validation_loss"] < math.log(2)
    assert "step 1/27: loss 0.693, " in done.stderr
    assert "reward accuracy 100 %, margin " in done.stderr
    before, after = load_checkpoint(folder / "tuned"), load_checkpoint(folder / "out")
    assert after.template == before.template == get_template("phi3")  # the model's own, though none was given
    assert fingerprint(after) == fingerprint(before)  # so what was held out before is held out now
    assert (folder / "out" / "loss.png").exists()
    again = CliRunner().invoke(app, (*words, "--resume"))
    assert "this run is finished already" in again.stderr


def test_two_processes_lose_what_one_loses(folder: Path) -> None:
    words = ("prefer", "pairs.json", "-m", "base", "--batch-size", "3", "--learning-rate", "1e-3")
    assert CliRunner().invoke(app, (*words, "-o", "one")).exit_code == 0
    _, errors = (process := start_two(*words, "-o", "two")).communicate(timeout=120)
    assert process.returncode == 0, errors
    one, two = (read_records(folder / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 12
    for ours, theirs in zip(one[1:], two[1:], strict=True):
        for name in ("loss", "margin", "reward_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


def fingerprint(checkpoint: Checkpoint) -> tuple[str, int]:
    assert checkpoint.info is not None
    return checkpoint.info.data_fingerprint, checkpoint.info.split_seed


@pytest.mark.usefixtures("folder")
def test_the_command_names_a_wrong_beta_and_plain_rows(examples: list[Example]) -> None:
    refused = CliRunner().invoke(app, ("prefer", "pairs.json", "-m", "base", "-o", "out", "--beta", "0"))
    assert refused.exit_code == 2
    assert "--beta: expected greater than 0, got 0.0." in refused.stderr
    Path("rows.json").write_text(dump_rows(examples))
    refused = CliRunner().invoke(app, ("prefer", "rows.json", "-m", "base", "-o", "out"))
    assert refused.exit_code == 1
    assert 'rows.json, row 1: expected "chosen" and "rejected", got one answer.' in refused.stderr
