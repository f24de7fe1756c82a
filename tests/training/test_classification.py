"""Learning labels with the loop of fine-tuning: what is read, what is trained, what is repeated exactly."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from assistant.dataset.instructions import Example
from assistant.dataset.splits import Splits, split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, DataError, SettingsError
from assistant.model import fused
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.gpt import GPTClassifier
from assistant.settings import BestBy, ClassifierSettings, FinetuneSettings, LoraSettings
from assistant.training import frozen
from assistant.training.classification import ClassifierTrainer, balanced_rows
from assistant.training.collate import PaddedBatch
from assistant.training.distributed import Ranks
from assistant.training.loss import label_losses
from assistant.training.run_folder import read_records
from tests.support.models import tiny_checkpoint
from tests.support.runs import records_without_seconds, train, weights

LABELS = FinetuneSettings(
    epochs=3,
    batch_size=4,
    learning_rate=3e-3,
    precision="float32",
    template="text",
    validation_answers=0,
    classifier=ClassifierSettings(),
)
ALL = LABELS.model_copy(update={"classifier": ClassifierSettings(trained="all")})
LORA = ALL.model_copy(update={"lora": LoraSettings(rank=2)})


def splits_of(examples: list[Example]) -> Splits:
    return split_examples(examples, fractions=(0.7, 0.2, 0.1))


def trainer_of(
    tokenizer: Tokenizer, examples: list[Example], settings: FinetuneSettings = LABELS, n_positions: int = 256
) -> ClassifierTrainer:
    return ClassifierTrainer(tiny_checkpoint(tokenizer, n_positions=n_positions), splits_of(examples), settings)


def losses_of(trainer: ClassifierTrainer, n_steps: int = 1000) -> list[float]:
    windows = list(trainer.windows(0))[:n_steps]
    return [trainer.train_step(step, window).loss for step, (_, window) in enumerate(windows, start=1)]


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
def test_padding_changes_neither_predictions_nor_the_gradient(
    byte_tokenizer: Tokenizer, labelled: list[Example], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled and fused._library()[0] is not None)
    trainer = trainer_of(byte_tokenizer, labelled, ALL)
    rows = trainer.train.rows[:6]
    assert len({len(row.input_ids) for row in rows}) > 2

    def gradients(*sums: torch.Tensor) -> dict[str, torch.Tensor]:
        for total in sums:
            total.backward()
        found = {
            name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None
        }
        trainer.model.zero_grad()
        return found

    alone = [trainer.loss_sums([row], "response") for row in rows]
    expected = gradients(*(sums["loss"] for sums in alone))
    together = trainer.loss_sums(rows, "response")
    n_columns = 5 + max(len(row.input_ids) for row in rows)
    garbage = torch.randint(0, 256, (len(rows), n_columns), generator=torch.Generator().manual_seed(5))
    targets = torch.full_like(garbage, -100)
    for index, row in enumerate(rows):
        garbage[index, : len(row.input_ids)] = torch.tensor(row.input_ids)
        targets[index, len(row.input_ids) - 1] = row.label or 0
    padded_losses, padded_hits = label_losses(trainer.model, PaddedBatch(input_ids=garbage, targets=targets))
    assert torch.allclose(padded_losses, torch.stack([sums["loss"] for sums in alone]), atol=1e-5)
    assert padded_hits.tolist() == [sums["accuracy"].item() for sums in alone]
    assert together["accuracy"].item() == padded_hits.sum().item()
    for loss in (together["loss"], padded_losses.sum()):
        for name, gradient in gradients(loss).items():
            assert torch.allclose(gradient, expected[name], atol=2e-5), name


def test_a_long_text_is_cut_at_its_end_and_counted(byte_tokenizer: Tokenizer, labelled: list[Example]) -> None:
    long = replace(labelled[0], instruction="Win " + 100 * "x", row=99)
    trainer = trainer_of(byte_tokenizer, [long, *labelled], LABELS, n_positions=24)
    parts = {part: getattr(trainer, part) for part in ("train", "validation")}
    if long not in trainer.splits.test:
        assert sum(len(encoded.truncated) for encoded in parts.values()) == 1
    row = next(row for encoded in parts.values() for row in encoded.rows if row.example == long)
    assert row.input_ids == tuple(byte_tokenizer.encode(long.instruction)[:24])


def test_the_padded_reading_pads_to_the_longest_training_row(
    byte_tokenizer: Tokenizer, labelled: list[Example]
) -> None:
    settings = LABELS.model_copy(update={"classifier": ClassifierSettings(reading="padded")})
    splits = splits_of(labelled)
    long = replace(labelled[0], instruction="a text that is longer than all the rows of the training part")
    splits = replace(splits, validation=(*splits.validation, long))
    trainer = ClassifierTrainer(tiny_checkpoint(byte_tokenizer), splits, settings)
    longest = max(len(example.instruction) for example in splits.train)
    assert {len(row.input_ids) for row in (*trainer.train.rows, *trainer.validation.rows)} == {longest}
    assert trainer.validation.truncated == (long,)
    record = trainer.checkpoint.classifier
    assert record is not None
    assert (record.reading, record.max_length) == ("padded", longest)
    row = trainer.train.rows[0]
    assert row.n_tokens == len(row.example.instruction) < longest
    hidden = trainer.model(torch.tensor([row.input_ids]))[:, -1]
    expected = torch.nn.functional.cross_entropy(trainer.model.head(hidden), torch.tensor([row.label]))
    assert trainer.loss_sums([row], "response")["loss"].item() == pytest.approx(expected.item(), abs=1e-5)


# --- what is trained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [LABELS, ALL, LORA])
def test_only_the_named_weights_change(
    byte_tokenizer: Tokenizer, labelled: list[Example], settings: FinetuneSettings
) -> None:
    trainer = trainer_of(byte_tokenizer, labelled, settings)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses_of(trainer, 3)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    if settings is ALL:
        expected = set(before)
    elif settings is LORA:
        expected = {name for name in before if ".lora_" in name} | {"score.weight"}
    else:
        expected = {name for name in before if name.startswith(("transformer.h.1.", "transformer.ln_f.", "score."))}
    assert changed == expected


def test_a_run_leaves_a_classifier_that_learns_on(
    tmp_path: Path, byte_tokenizer: Tokenizer, labelled: list[Example]
) -> None:
    result, watcher = train(byte_tokenizer, labelled, tmp_path / "run", ALL.model_copy(update={"epochs": 8}))
    assert not watcher.warnings
    assert result.best_validation_loss is not None
    assert result.first_validation_loss is not None
    assert result.best_validation_loss < result.first_validation_loss / 2
    assert watcher.steps[-1].metrics.accuracy == 1.0
    assert watcher.validations[-1].accuracy == 1.0
    step = read_records(tmp_path / "run" / "metrics.jsonl")[0]
    assert step["supervised_tokens"] == 4
    assert 0 <= step["accuracy"] <= 1
    assert "accuracy" in read_records(tmp_path / "run" / "validation.jsonl")[0]
    loaded = load_checkpoint(tmp_path / "run", may_classify=True)
    assert isinstance(loaded.model, GPTClassifier)
    assert loaded.model.labels == ("not spam", "spam")
    assert loaded.info is not None
    assert loaded.info.finetune.classifier == ClassifierSettings(trained="all")
    assert loaded.info.template.name == "text"
    assert loaded.classifier is not None
    assert (loaded.classifier.reading, loaded.classifier.max_length) == ("last", 256)

    again = ClassifierTrainer(loaded, splits_of(labelled), ALL)
    assert again.evaluate(again.validation.rows)["loss"] < result.first_validation_loss / 2
    others = [replace(e, output={"spam": "a", "not spam": "b"}[e.output]) for e in labelled]
    trainer = ClassifierTrainer(loaded, splits_of(others), ALL)
    assert trainer.labels == ("a", "b")
    assert not torch.equal(trainer.model.state_dict()["score.weight"], loaded.model.state_dict()["score.weight"])


# --- the frozen blocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("reading", ["last", "padded"])
def test_numbers_of_frozen_blocks_are_computed_once_and_change_no_loss(
    byte_tokenizer: Tokenizer, labelled: list[Example], reading: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled and fused._library()[0] is not None)
    how = ClassifierSettings.model_validate({"reading": reading})
    plain, fast = (
        trainer_of(byte_tokenizer, labelled, LABELS.model_copy(update={"classifier": how})) for _ in range(2)
    )
    fast.prepare()
    first_block = fast.model.transformer.h[0]
    monkeypatch.setattr(first_block, "attention_inputs", None)  # it is not needed any more
    assert losses_of(fast) == pytest.approx(losses_of(plain), abs=1e-5)
    monkeypatch.undo()
    monkeypatch.setattr(first_block, "attention_inputs", None)
    means = fast.evaluate(fast.validation.rows)
    assert means == pytest.approx(plain.evaluate(plain.validation.rows), abs=1e-5)


def test_without_enough_memory_or_use_nothing_is_kept(
    byte_tokenizer: Tokenizer, labelled: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = trainer_of(byte_tokenizer, labelled, LABELS.model_copy(update={"max_steps": 2}))
    short.prepare()
    assert short._states is None
    everything = trainer_of(byte_tokenizer, labelled, ALL)
    everything.prepare()
    assert everything._states is None
    monkeypatch.setattr(frozen, "SHARE_OF_MEMORY", 1e-12)
    poor = trainer_of(byte_tokenizer, labelled)
    poor.prepare()
    assert poor._states is None
    assert len(losses_of(poor, 2)) == 2


# --- repeating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "balance"), [(LABELS, "none"), (ALL, "sampling"), (LORA, "weights")])
def test_a_stopped_run_resumes_to_the_same_bytes(
    tmp_path: Path, byte_tokenizer: Tokenizer, labelled: list[Example], settings: FinetuneSettings, balance: str
) -> None:
    assert settings.classifier is not None
    how = settings.classifier.model_copy(update={"balance": balance})
    settings = settings.model_copy(update={"classifier": how, "epochs": 2})
    train(byte_tokenizer, labelled, tmp_path / "whole", settings)
    n_steps = len(read_records(tmp_path / "whole" / "metrics.jsonl"))
    output = tmp_path / "parts"
    train(byte_tokenizer, labelled, output, settings, stop_at=n_steps // 2 + 1)
    train(byte_tokenizer, labelled, output, settings, resume=True)
    for name in (".", "last"):
        assert weights(output / name) == weights(tmp_path / "whole" / name)
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert records_without_seconds(output / name) == records_without_seconds(tmp_path / "whole" / name)


@dataclass(frozen=True, kw_only=True)
class ThreadRanks(Ranks):
    """Two ranks in two threads of this process."""

    places: list[torch.Tensor]
    meeting: threading.Barrier

    def all_reduce_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of both ranks' tensors, in place."""
        self.places[self.rank] = values.clone()
        self.meeting.wait(30)
        values.copy_(self.places[0] + self.places[1])
        self.meeting.wait(30)
        return values

    def all_reduce_sum(self, value: float, device: torch.device) -> float:
        """The sum of both ranks' numbers."""
        return float(self.all_reduce_tensor(torch.tensor(value, dtype=torch.float64, device=device)))

    def all_reduce_max(self, value: int, device: torch.device) -> int:
        """The number, which is the same in both ranks here."""
        return int(self.all_reduce_sum(value, device)) // 2

    def all_reduce_gradients(self, parameters: object) -> None:
        """Sum the gradients."""
        for weight in (weight for weight in parameters if weight.requires_grad):  # type: ignore[attr-defined]
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            self.all_reduce_tensor(weight.grad)


@pytest.mark.parametrize("settings", [LABELS, LORA])
def test_two_processes_give_the_losses_of_one(
    byte_tokenizer: Tokenizer, labelled: list[Example], settings: FinetuneSettings
) -> None:
    settings = settings.model_copy(
        update={"batch_size": 3, "classifier": ClassifierSettings(balance="weights"), "epochs": 1}
    )
    one = trainer_of(byte_tokenizer, labelled, settings)
    one.prepare()
    expected = losses_of(one)
    places, barrier, found = [torch.zeros(())] * 2, threading.Barrier(2), dict[int, list[float]]()

    def run(rank: int) -> None:
        try:
            ranks = ThreadRanks(rank=rank, world_size=2, places=places, meeting=barrier)
            checkpoint = tiny_checkpoint(byte_tokenizer)
            trainer = ClassifierTrainer(checkpoint, splits_of(labelled), settings, ranks=ranks)
            trainer.prepare()
            found[rank] = losses_of(trainer)
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0] == found[1] == pytest.approx(expected, abs=1e-5)


# --- choosing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best_by", ["loss", "accuracy"])
def test_the_best_weights_are_those_of_the_best_validation(
    tmp_path: Path, byte_tokenizer: Tokenizer, labelled: list[Example], best_by: BestBy
) -> None:
    changes = {"best_by": best_by, "validate_every": 2, "epochs": 2, "patience": 3}
    result, watcher = train(byte_tokenizer, labelled, tmp_path / "run", ALL.model_copy(update=changes))
    reports = [report for report in watcher.validations if report.step]
    key = {
        "loss": lambda report: -report.validation_loss,
        "accuracy": lambda report: (report.accuracy, -report.validation_loss),
    }[best_by]
    assert result.best_step == max(reports, key=key).step
    if result.ended_early:
        assert [report.is_best for report in reports][-3:] == [False] * 3


def test_balanced_epochs_have_as_many_rows_of_every_label_and_use_all_rows() -> None:
    labels = [0] * 10 + [1] * 3 + [2] * 4
    seen = set[int]()
    for epoch in range(4):
        chosen = balanced_rows(labels, seed=1, epoch=epoch)
        assert Counter(labels[index] for index in chosen) == {0: 3, 1: 3, 2: 3}
        assert len(set(chosen)) == 9
        assert chosen == balanced_rows(labels, seed=1, epoch=epoch)
        seen |= set(chosen)
    assert seen == set(range(17))
    assert balanced_rows(labels, seed=1, epoch=0) != balanced_rows(labels, seed=2, epoch=0)


def test_balancing_by_sampling_shortens_the_epoch(byte_tokenizer: Tokenizer, labelled: list[Example]) -> None:
    how = ClassifierSettings(balance="sampling")
    trainer = trainer_of(byte_tokenizer, labelled, LABELS.model_copy(update={"classifier": how}))
    rows = [index for epoch, window in trainer.windows(0) if epoch == 1 for batch in window for index in batch]
    counts = Counter(trainer.train.rows[index].label for index in rows)
    assert counts[0] == counts[1] == sum(row.label == 1 for row in trainer.train.rows)


@pytest.mark.parametrize(("balance", "in_training"), [("weights", True), ("weights", False), ("sampling", False)])
def test_every_label_has_the_same_share_of_a_balanced_loss(
    byte_tokenizer: Tokenizer, labelled: list[Example], balance: str, in_training: bool
) -> None:
    how = ClassifierSettings.model_validate({"balance": balance})
    trainer = trainer_of(byte_tokenizer, labelled, LABELS.model_copy(update={"classifier": how}))
    plain = trainer_of(byte_tokenizer, labelled)
    means = []
    for label in (0, 1):
        rows = [row for row in plain.train.rows if row.label == label]
        means.append(plain.loss_sums(rows, "response")["loss"].item() / len(rows))
    everything = trainer.train.rows
    trainer.model.train(in_training)
    loss = trainer.loss_sums(everything, "response")["loss"].item() / trainer.loss_denominator(everything, "response")
    assert loss == pytest.approx(sum(means) / 2, abs=1e-5)
    unbalanced = plain.evaluate(everything)
    assert abs(unbalanced["loss"] - loss) > 1e-3
    assert trainer.evaluate(everything)["accuracy"] == unbalanced["accuracy"]


def test_sampled_rows_have_no_weights(byte_tokenizer: Tokenizer, labelled: list[Example]) -> None:
    how = ClassifierSettings(balance="sampling")
    trainer = trainer_of(byte_tokenizer, labelled, LABELS.model_copy(update={"classifier": how}))
    rows = trainer.train.rows[:4]
    trainer.model.train()
    expected = trainer_of(byte_tokenizer, labelled).loss_sums(rows, "response")["loss"].item()
    assert trainer.loss_sums(rows, "response")["loss"].item() == pytest.approx(expected, abs=1e-5)


# --- errors -------------------------------------------------------------------------------------------------------


def test_a_label_that_only_validation_rows_have_is_named(byte_tokenizer: Tokenizer, labelled: list[Example]) -> None:
    splits = splits_of(labelled)
    odd = replace(splits.validation[0], output="offer")
    with pytest.raises(DataError, match=r"sms.tsv, row \d+: expected one of the labels not spam, spam, got 'offer'"):
        ClassifierTrainer(tiny_checkpoint(byte_tokenizer), replace(splits, validation=(odd,)), LABELS)


def test_empty_texts_and_a_single_label_are_refused(byte_tokenizer: Tokenizer, labelled: list[Example]) -> None:
    splits = splits_of(labelled)
    splits = replace(splits, train=(replace(labelled[0], instruction=""), *splits.train))
    with pytest.raises(DataError, match="row 1: expected a text, got an empty one"):
        ClassifierTrainer(tiny_checkpoint(byte_tokenizer), splits, LABELS)
    with pytest.raises(SettingsError, match="labels: expected two or more different ones, got only spam"):
        trainer_of(byte_tokenizer, [example for example in labelled if example.output == "spam"])


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"validation_answers": 4}, "--validation-answers"),
        ({"best_by": "exact"}, "--best-by"),
        ({"template": "alpaca"}, "--template"),
        ({"beta": 0.1}, "--beta"),
        ({"loss_per": "row"}, "--loss-per"),
    ],
)
def test_settings_of_other_runs_are_refused(
    byte_tokenizer: Tokenizer, labelled: list[Example], changes: dict[str, object], option: str
) -> None:
    with pytest.raises(SettingsError, match=f"classifier: .* got {option}"):
        trainer_of(byte_tokenizer, labelled, LABELS.model_copy(update=changes))


# --- LoRA for PEFT ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT reads it
def test_peft_opens_the_adapter_with_equal_logits(
    tmp_path: Path, byte_tokenizer: Tokenizer, labelled: list[Example]
) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = tiny_checkpoint(byte_tokenizer)
    save_checkpoint(base, tmp_path / "base")
    train(byte_tokenizer, labelled, tmp_path / "run", LORA, base=base)
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    theirs = transformers.GPT2ForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=2, pad_token_id=byte_tokenizer.pad_id
    )
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "run" / "adapter").eval()
    ours = load_checkpoint(tmp_path / "run", may_classify=True).model
    ids = torch.tensor([byte_tokenizer.encode("Win a prize")])
    with torch.inference_mode():
        assert torch.allclose(theirs(ids).logits, ours.head(ours(ids)[:, -1]), atol=1e-5)
    with pytest.raises(CheckpointError, match="got one of a classifier, with a head of its own"):
        load_checkpoint(tmp_path / "run" / "adapter")


def test_bfloat16_gives_about_the_same_losses(byte_tokenizer: Tokenizer, labelled: list[Example]) -> None:
    expected = losses_of(trainer_of(byte_tokenizer, labelled))
    for trained, computed_once in (("all", False), ("last-block", False), ("last-block", True)):
        how = ClassifierSettings.model_validate({"trained": trained})
        settings = LABELS.model_copy(update={"precision": "bfloat16", "classifier": how})
        trainer = trainer_of(byte_tokenizer, labelled, settings)
        if computed_once:
            trainer.prepare()
        losses = losses_of(trainer, 8)
        assert losses[0] == pytest.approx(expected[0], abs=0.02)
        if trained == "last-block":
            assert losses == pytest.approx(expected[:8], abs=0.1)
