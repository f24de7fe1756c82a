"""What turns rows into updates of the weights: encoding, the order of the batches, one step. It writes nothing.

The order of the rows and the schedule depend on the settings and the step alone, never on a global random generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch

from assistant.dataset.encode import EncodedExample, EncodedRows, count_targets, encode_examples, sequences
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import Splits
from assistant.errors import AssistantError, DataError, SettingsError
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint
from assistant.model.linear import add_copies
from assistant.model.lora import add_adapters
from assistant.settings import FinetuneSettings, Precision, TrainOn
from assistant.training.batches import book_batches, by_length, plan_batches
from assistant.training.collate import Batch, collate
from assistant.training.distributed import ALONE, Ranks
from assistant.training.events import Update
from assistant.training.loss import summed_loss
from assistant.training.optimizer import build_optimizers, gradient_norm, learning_rate, take_step
from assistant.training.precision import pick_precision
from assistant.training.sharding import gather, shard

WAYS_MAY_DIFFER = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference that rounding explains of a loss computed in two ways, in nats, and of a weight's gradient, as a
share of the whole gradient."""
COMPARED_ROWS = 4
"""Rows that are computed both ways; the plain one needs more memory for a row."""

TINY = 1e-6
"""Keeps a norm of zero from being divided by; as torch's own clipping has it."""
MOST_VALIDATIONS = 20
"""Of a run that was not told how often to validate."""
Window = list[list[int]]
"""The micro-batches of one step, as indices of training rows."""


class Trainer:
    """A model with its rows, its settings and its optimizers. It learns answers; its heir learns preferences.

    Raises:
        DataError: no row can be trained on, or a row is too long and `too_long` is "error".
        SettingsError: settings that do not go with the model or with each other.
    """

    watched: tuple[str, ...] = ()
    """What `measure` tells beside the loss."""
    as_pairs = False
    """Whether a row is a pair of answers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        splits: Splits,
        settings: FinetuneSettings,
        *,
        ranks: Ranks = ALONE,
        precision: Precision | None = None,
    ) -> None:
        """`precision` is that which an earlier start has found, where the run is resumed."""
        self.settings, self.splits, self.ranks = settings, splits, ranks
        self.checkpoint = replace(checkpoint, template=get_template(settings.template))
        self.model = checkpoint.model
        self.device = next(self.model.parameters()).device
        self.precision = self._pick_precision(precision or settings.precision)
        self.is_plain = False
        """Whether every position of every row is computed, because the faster way was found to be wrong here."""
        context_length = checkpoint.config.context_length
        self.max_length = settings.max_length or context_length
        if self.max_length > context_length:
            raise SettingsError(
                f"--max-length: expected at most {context_length}, the model's context, got {self.max_length}."
            )
        self._check_settings()
        self.train, self.validation = self._encode("train"), self._encode("validation")
        if not self.train.rows:
            raise DataError("training rows: expected at least one that fits, got none. Raise --max-length or add rows.")
        self._book: list[list[list[int]]] = []
        if settings.book:
            self.model.untie()
        self.steps_per_epoch = math.ceil(len(self._batches(0)) / settings.gradient_accumulation_steps)
        if not self.steps_per_epoch:
            raise DataError(
                f"training rows: expected at least {settings.batch_size}, a full batch of the book's loop, "
                f"got {len(self.train.rows)}. Add rows."
            )
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch
        self.model.recomputes = settings.gradient_checkpointing
        for embedding in (self.model.transformer.wte, self.model.transformer.wpe):
            embedding.requires_grad_(not settings.freeze_embeddings)
        if settings.lora is not None:
            add_adapters(self.model, settings.lora, seed=settings.seed)
        if ranks.shards:
            shard(self.model, ranks)
        self.optimizers = build_optimizers(self.model, settings)
        if self.precision is torch.bfloat16 and self.device.type == "cpu" and not ranks.shards:
            add_copies(self.model, narrow_gradients=settings.gradient_accumulation_steps == ranks.world == 1)

    def _check_settings(self) -> None:
        """Raise SettingsError for what does not go together."""
        settings = self.settings
        if settings.best_by in ("exact", "ended") and not settings.validation_answers:
            raise SettingsError(
                f"--best-by {settings.best_by}: expected answers to choose by, got --validation-answers 0. Raise it."
            )
        if self.ranks.shards and (settings.lora is not None or settings.optimizer == "muon"):
            other = "--lora" if settings.lora is not None else "--optimizer muon"
            raise SettingsError(f"--shard: expected a run without {other}, got both. Leave one out.")

    def _pick_precision(self, name: Precision) -> torch.dtype:
        """The dtype of the products; bfloat16 only if every process has picked it."""
        found = pick_precision(name, self.device, self.checkpoint.config.n_embd)
        return torch.float32 if self.ranks.largest(int(found is torch.float32), self.device) else found

    @property
    def precision_name(self) -> Literal["float32", "bfloat16"]:
        """The dtype of the products as the option has it."""
        return "bfloat16" if self.precision is torch.bfloat16 else "float32"

    def _encode(self, part: str) -> EncodedRows:
        return encode_examples(
            self.splits.part(part),
            self.checkpoint.template,
            self.checkpoint.tokenizer,
            max_length=self.max_length,
            too_long=self.settings.too_long,
            as_pairs=self.as_pairs,
        )

    def _batches(self, epoch: int) -> list[list[int]]:
        if self.settings.book:
            if epoch >= len(self._book):
                self._book = book_batches(
                    len(self.train.rows),
                    len(self.validation.rows),
                    batch_size=self.settings.batch_size,
                    seed=self.settings.seed,
                    epochs=max(epoch + 1, self.settings.epochs),
                )
            return self._book[epoch]
        lengths = [row.n_tokens for row in self.train.rows]
        return plan_batches(lengths, batch_size=self.settings.batch_size, seed=self.settings.seed, epoch=epoch)

    def windows(self, first_step: int) -> Iterator[tuple[int, Window]]:
        """The micro-batches of every step still to do, with their epoch. An epoch's last window may be smaller."""
        epoch, step = first_step // self.steps_per_epoch, first_step
        while step < self.total_steps:
            batches, size = self._batches(epoch), self.settings.gradient_accumulation_steps
            for place in range(step % self.steps_per_epoch, self.steps_per_epoch):
                if step == self.total_steps:
                    return
                yield epoch, batches[place * size : (place + 1) * size]
                step += 1
            epoch += 1

    def validation_is_due(self, step: int) -> bool:
        """Whether to validate behind step `step`."""
        often = max(math.ceil(self.steps_per_epoch / 4), math.ceil(self.total_steps / MOST_VALIDATIONS))
        every = self.settings.validate_every or often
        return step % every == 0 or step == self.total_steps

    def update(self, step: int, window: Window) -> Update:
        """Do step `step`, counted from 1.

        Raises:
            AssistantError: the loss or the gradient is no longer a number; the weights are as they were.
        """
        started = time.perf_counter()
        rate = learning_rate(step, self.total_steps, self.settings)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        batches = [[self.train.rows[index] for index in indices] for indices in window]
        rows = [row for batch in batches for row in batch]
        weight = self.weight(rows, self.settings.train_on)
        self.model.train()
        totals = dict.fromkeys(("loss", *self.watched), 0.0)
        for batch in batches:
            mine = self.ranks.share(batch)
            if mine or self.ranks.shards:
                # Weighted by the targets (or pairs) of the whole window, so that accumulation and several processes
                # equal one big batch. Where every process holds a part of the model, one without a row lends a hand.
                sums = self.measure(mine or batch[:1], self.settings.train_on)
                counts = 1 / weight if mine else 0.0
                processes = self.ranks.world if self.ranks.shards else 1  # whose mean will be taken
                (sums["loss"] * counts * processes).backward()  # type: ignore[no-untyped-call]
                for name in totals:
                    totals[name] += sums[name].item() * counts
        self.ranks.add_gradients(self.model.parameters())
        totals = {name: self.ranks.add(total, self.device) for name, total in totals.items()}
        norm = gradient_norm(self.model.parameters())
        if not math.isfinite(totals["loss"]) or not math.isfinite(norm):
            found = f"a loss of {totals['loss']} and a norm of {norm}"
            raise AssistantError(
                f"step {step}: expected a finite loss and gradient, got {found}. "
                f"Lower --learning-rate; the last good weights, if any were saved, are in last/ of the output folder."
            )
        limit = self.settings.max_grad_norm or math.inf
        take_step(self.optimizers, self.model, min(1.0, limit / (norm + TINY)))
        return Update(
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(row.n_tokens for row in rows),
            supervised_tokens=sum(count_targets(row, self.settings.train_on) for row in sequences(rows)),
            seconds=time.perf_counter() - started,
            **totals,
        )

    def collate(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> Batch:
        """A batch on the model's device; of pairs, the worse answers stand behind the better ones."""
        batch = collate(
            sequences(rows),
            pad_id=self.checkpoint.tokenizer.pad_id,
            train_on=train_on,
            as_tree=self.device.type == "cpu" and fused.is_compiled(),
        )
        return batch.to(self.device)

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Where the model is spread over processes, work with a plain copy of all of it for a while.

        All processes must come here together; what is done with the copy is each one's own.
        """
        if not self.ranks.shards:
            yield
            return
        parts, checkpoint = self.model, self.checkpoint
        self.model = gather(parts)
        self.checkpoint = replace(checkpoint, model=self.model)
        try:
            yield
        finally:
            self.model, self.checkpoint = parts, checkpoint

    # --- what is learnt: preferences do these their own way -------------------------------------------------------

    def prepare(self) -> None:
        """What has to be computed once, with the starting weights, before the first step."""

    def kept(self) -> dict[str, torch.Tensor]:
        """What `prepare` found, for the run's state."""
        return {}

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Take what an earlier start has prepared."""

    def weight(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> int:
        """What the sums of `measure` are divided by to be means: targets."""
        return sum(count_targets(row, train_on) for row in rows)

    def measure(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> dict[str, torch.Tensor]:
        """Sums (float32 scalars) over some rows: `loss` in nats, with its gradient, and what is `watched`."""
        batch = self.collate(rows, train_on)
        return {"loss": summed_loss(self.model, batch, self.precision, is_plain=self.is_plain)}

    # --------------------------------------------------------------------------------------------------------------

    def means(self, rows: Sequence[EncodedExample]) -> dict[str, float]:
        """What `measure` tells as means over every response token and EOS of the rows, or over every pair.

        The model is left in evaluation mode.
        """
        self.model.eval()
        totals = dict.fromkeys(("loss", *self.watched), 0.0)
        with torch.inference_mode():
            for batch in by_length(rows, self.settings.batch_size):
                sums = self.measure(batch, "response")
                totals = {name: total + sums[name].item() for name, total in totals.items()}
        return {name: total / self.weight(rows, "response") for name, total in totals.items()}

    def compare_ways(self, window: Window) -> str | None:
        """Compute a few rows the fast and the plain way: the loss, and how long the gradient of every weight is.

        Should they differ on this machine, go on the plain way, and say so.

        Returns:
            What was found, in words, or None where both agree.
        """
        batch = self.collate([self.train.rows[index] for index in window[0][:COMPARED_ROWS]], self.settings.train_on)
        fast, plain = (self._loss_and_norms(batch, is_plain=is_plain) for is_plain in (False, True))
        margin = WAYS_MAY_DIFFER[self.precision]
        losses_agree = abs(fast[0] - plain[0]) <= margin * max(1.0, abs(plain[0]))
        agrees = losses_agree and bool((fast[1] - plain[1]).abs().max() <= margin * torch.linalg.vector_norm(plain[1]))
        if not self.ranks.largest(int(not agrees), self.device):
            return None
        self.is_plain = True
        what = "gradients that differ"
        if not losses_agree:
            what = f"a loss of {plain[0]:.6f} and, the faster way, {fast[0]:.6f}"
        return (
            f"the first batch: expected both ways of computing it to agree, got {what}. "
            f"This run computes the plain way, which is slower. Please report it, with `assistant doctor`."
        )

    def _loss_and_norms(self, batch: Batch, *, is_plain: bool) -> tuple[float, torch.Tensor]:
        """Mean loss (nats) of a batch, and the norm (W,) float32 of the gradient of each weight that is trained."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        norms = dict.fromkeys(trained, 0.0)

        def take(weight: torch.nn.Parameter) -> None:
            """Note a gradient and let go of it, so that never all of them are there."""
            norms[weight] = gradient_norm([weight])
            weight.grad = None

        hooks = [weight.register_post_accumulate_grad_hook(take) for weight in trained]  # type: ignore[no-untyped-call]
        self.model.train()
        loss = summed_loss(self.model, batch, self.precision, is_plain=is_plain) / batch.n_targets
        loss.backward()  # type: ignore[no-untyped-call]
        for hook in hooks:
            hook.remove()
        return loss.item(), torch.tensor(list(norms.values()))
