"""The trainer: encoded rows, the order of the batches, and one optimizer step. It writes nothing.

The order of the rows and the schedule depend only on the settings and the step, never on a global random generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from assistant.dataset.encode import EncodedExample, EncodedRows, count_targets, encode_examples, sequences
from assistant.dataset.splits import Splits
from assistant.errors import AssistantError, DataError, SettingsError
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint
from assistant.model.linear import add_copies
from assistant.model.lora import add_adapters
from assistant.settings import FinetuneSettings, Precision, TrainOn
from assistant.training.batches import by_length
from assistant.training.collate import Batch, collate, pad
from assistant.training.distributed import SINGLE_PROCESS, Ranks
from assistant.training.events import StepMetrics
from assistant.training.loss import log_probabilities, summed_loss
from assistant.training.optimizer import build_optimizers, gradient_norm, take_step
from assistant.training.precision import Picked, pick_precision
from assistant.training.recipe import make_recipe
from assistant.training.sharding import gather, shard

LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference between packed and padded results that rounding can explain: of the loss (in nats, or as a share
of a loss above 1), and of a weight's gradient norm as a share of the norm of the whole gradient."""
CHECKED_ROWS = 4
"""Rows that are computed both ways. The padded way needs more memory per row."""
EPSILON = 1e-6
"""Added to the gradient norm before dividing by it, as in torch's own clipping."""
MAX_VALIDATIONS = 20
"""Most validations of a run without `validate_every`."""
Window = list[list[int]]
"""The micro-batches of one step, as indices of training rows."""


class Trainer:
    """A model with its rows, settings and optimizers. It learns answers; `dpo.PreferenceTrainer` learns preferences,
    and `classification.ClassifierTrainer` learns labels.

    Raises:
        DataError: no row can be trained on, or a row is too long and `too_long` is "error".
        SettingsError: settings that do not fit the model or each other.
    """

    metric_names: tuple[str, ...] = ()
    """Metrics that `loss_sums` returns besides the loss."""
    as_pairs = False
    """Whether a row is a pair of answers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        splits: Splits,
        settings: FinetuneSettings,
        *,
        ranks: Ranks = SINGLE_PROCESS,
        precision: Precision | None = None,
        schedule_start: int = 0,
    ) -> None:
        """`precision` and `schedule_start` are those of the state, if the run is resumed."""
        self.schedule_start = schedule_start
        self.settings, self.splits, self.ranks = settings, splits, ranks
        self.recipe = make_recipe(settings)
        self.checkpoint = checkpoint = self._adapt(checkpoint)
        self.model = checkpoint.model
        self.device = next(self.model.parameters()).device
        width = checkpoint.config.n_embd
        self.precision_name = self.pick_precision(precision or settings.precision, self.device, width, ranks)
        self.precision = getattr(torch, self.precision_name)
        self.reference = False
        """Whether batches are padded, because the packed computation proved wrong on this machine."""
        self.max_length = self._checked_max_length()
        self._check_settings()
        self.train, self.validation = self._encode("train"), self._encode("validation")
        if not self.train.rows:
            raise DataError("training rows: expected at least one that fits, got none. Raise --max-length or add rows.")
        self.steps_per_epoch = math.ceil(len(self._batches(0)) / settings.gradient_accumulation_steps)
        if not self.steps_per_epoch:
            raise DataError(
                f"training rows: expected at least {settings.batch_size}, a full batch of the book's loop, "
                f"got {len(self.train.rows)}. Add rows."
            )
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch
        self._prepare_model()
        self.optimizers = build_optimizers(self.model, settings)
        if self.precision is torch.bfloat16 and self.device.type == "cpu" and not ranks.shards:
            is_single_batch = settings.gradient_accumulation_steps == ranks.world_size == 1
            add_copies(self.model, narrow_gradients=is_single_batch)

    def _adapt(self, checkpoint: Checkpoint) -> Checkpoint:
        """The model to train, from the one that was given."""
        return checkpoint.with_template(self.settings.template)

    def _checked_max_length(self) -> int:
        context_length = self.checkpoint.config.context_length
        max_length = self.settings.max_length or context_length
        if max_length > context_length:
            raise SettingsError(
                f"--max-length: expected at most {context_length}, the model's context, got {max_length}. Lower it."
            )
        return max_length

    def _check_settings(self) -> None:
        """Raise SettingsError for settings that contradict each other."""
        settings = self.settings
        if settings.best_by == "accuracy" and settings.classifier is None:
            raise SettingsError("--best-by: expected loss, exact, ended or last for answers, got accuracy. Choose one.")
        if settings.best_by in ("exact", "ended") and not settings.validation_answers:
            raise SettingsError(
                f"--best-by {settings.best_by}: expected answers to choose by, got --validation-answers 0. Raise it."
            )
        if self.ranks.shards and (settings.lora is not None or settings.optimizer == "muon"):
            other = "--lora" if settings.lora is not None else "--optimizer muon"
            raise SettingsError(f"--shard: expected a run without {other}, got both. Leave one out.")

    def _prepare_model(self) -> None:
        """Untie, freeze, add adapters and shard, as the settings say."""
        if self.recipe.unties_head:
            self.model.untie()
        self.model.gradient_checkpointing = self.settings.gradient_checkpointing
        self._choose_trained()
        if self.ranks.shards:
            shard(self.model, self.ranks)

    def _choose_trained(self) -> None:
        """Freeze the weights that the run does not train, and add adapters."""
        model, settings = self.model, self.settings
        for embedding in model.transformer.embeddings:
            embedding.requires_grad_(not settings.freeze_embeddings)
        if settings.lora is not None:
            add_adapters(model, settings.lora, seed=settings.seed)

    @staticmethod
    def pick_precision(name: Precision, device: torch.device, width: int, ranks: Ranks) -> Picked:
        """The dtype of the products of a model with this `width`: bfloat16 only if every process picks it."""
        is_wide = pick_precision(name, device, width) is torch.float32
        return "float32" if ranks.all_reduce_max(int(is_wide), device) else "bfloat16"

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
        return self.recipe.batches([row.n_tokens for row in self.train.rows], len(self.validation.rows), epoch)

    def windows(self, first_step: int) -> Iterator[tuple[int, Window]]:
        """Epoch and micro-batches of every step after `first_step`. The last window of an epoch may be smaller."""
        epoch, step = first_step // self.steps_per_epoch, first_step
        while step < self.total_steps:
            batches, size = self._batches(epoch), self.settings.gradient_accumulation_steps
            for index in range(step % self.steps_per_epoch, self.steps_per_epoch):
                if step == self.total_steps:
                    return
                yield epoch, batches[index * size : (index + 1) * size]
                step += 1
            epoch += 1

    def validation_is_due(self, step: int) -> bool:
        """Whether to validate after step `step`."""
        default = max(math.ceil(self.steps_per_epoch / 4), math.ceil(self.total_steps / MAX_VALIDATIONS))
        return step % (self.settings.validate_every or default) == 0 or step == self.total_steps

    def train_step(self, step: int, window: Window) -> StepMetrics:
        """Do optimizer step `step`, counted from 1, on the micro-batches of `window`.

        Raises:
            AssistantError: the loss or the gradient is not finite; the weights are unchanged.
        """
        started = time.perf_counter()
        start = self.schedule_start
        rate = self.recipe.learning_rate(step - start, self.total_steps - start)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        batches = [[self.train.rows[index] for index in indices] for indices in window]
        rows = [row for batch in batches for row in batch]
        totals = self._accumulate(batches)
        norm = gradient_norm(self.model.parameters())
        if not math.isfinite(totals["loss"]) or not math.isfinite(norm):
            raise AssistantError(
                f"step {step}: expected a finite loss and gradient, got a loss of {totals['loss']} and a norm of "
                f"{norm}. Lower --learning-rate; the last good weights, if any were saved, are in last/ of the output "
                f"folder."
            )
        limit = self.settings.max_grad_norm or math.inf
        take_step(self.optimizers, self.model, min(1.0, limit / (norm + EPSILON)))
        return StepMetrics(
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(row.n_tokens for row in rows),
            supervised_tokens=sum(count_targets(row, self.settings.train_on) for row in sequences(rows)),
            seconds=time.perf_counter() - started,
            **totals,
        )

    def _accumulate(self, batches: Sequence[Sequence[EncodedExample]]) -> dict[str, float]:
        """Accumulate the gradients of some micro-batches over all processes. Returns their mean loss and metrics.

        Every micro-batch is divided by the denominator of the whole window, so that accumulation and several processes
        give the gradient of one large batch.
        """
        self.model.train()
        denominator = self.loss_denominator([row for batch in batches for row in batch], self.settings.train_on)
        totals = dict.fromkeys(("loss", *self.metric_names), 0.0)
        for batch in batches:
            mine = self.ranks.share(batch)
            if mine or self.ranks.shards:
                # With FSDP2 every process must take part, so one without rows computes a row with weight zero.
                sums = self.loss_sums(mine or batch[:1], self.settings.train_on)
                weight = 1 / denominator if mine else 0.0
                n_averaged = self.ranks.world_size if self.ranks.shards else 1  # FSDP2 averages the gradients
                (sums["loss"] * weight * n_averaged).backward()  # type: ignore[no-untyped-call]
                for name in totals:
                    totals[name] += sums[name].item() * weight
        self.ranks.all_reduce_gradients(self.model.parameters())
        return {name: self.ranks.all_reduce_sum(total, self.device) for name, total in totals.items()}

    def collate(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> Batch:
        """A batch on the model's device. The rejected answers of pairs come after the chosen ones."""
        return self._batch(rows, train_on, padded=self.reference)

    def _batch(self, rows: Sequence[EncodedExample], train_on: TrainOn, *, padded: bool) -> Batch:
        pad_id = self.checkpoint.tokenizer.pad_id
        if padded:
            return pad(sequences(rows), pad_id=pad_id, train_on=train_on).to(self.device)
        as_tree = self.device.type == "cpu" and fused.is_compiled()
        return collate(sequences(rows), pad_id=pad_id, train_on=train_on, as_tree=as_tree).to(self.device)

    @contextmanager
    def gathered_model(self) -> Iterator[None]:
        """Replace a sharded model by a complete copy for a while.

        All processes must enter together. Then each can use its copy without the others.
        """
        if not self.ranks.shards:
            yield
            return
        sharded, checkpoint = self.model, self.checkpoint
        self.model = gather(sharded)
        self.checkpoint = replace(checkpoint, model=self.model)
        try:
            yield
        finally:
            self.model, self.checkpoint = sharded, checkpoint

    # --- what is learnt; the other trainers override these -----------------------------------------------------------

    def prepare(self) -> None:
        """Compute what all steps share. Runs before the first step, also of a resumed run."""

    def compute_reference(self) -> None:
        """Compute what the loss needs from the starting weights. Runs once, before the first step."""

    def reference_logprobs(self) -> dict[str, torch.Tensor]:
        """What `compute_reference` computed, for the run's state."""
        return {}

    def load_reference(self, logprobs: Mapping[str, torch.Tensor]) -> None:
        """Load what `reference_logprobs` returned before the run was resumed."""

    def loss_denominator(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> int:
        """The number of targets; in training with `--loss-per row` that of rows. It makes means of `loss_sums`."""
        return len(rows) if self._rows_count_the_same else sum(count_targets(row, train_on) for row in rows)

    def loss_sums(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> dict[str, torch.Tensor]:
        """Sums (float32 scalars) over rows: `loss` in nats, with its graph, and the metrics of `metric_names`.

        In training with `--loss-per row`, the loss of a row is the mean over its targets.
        """
        batch = self.collate(rows, train_on)
        if not self._rows_count_the_same:
            return {"loss": summed_loss(self.model, batch, self.precision)}
        counts = torch.tensor([max(1, count_targets(row, train_on)) for row in rows], device=self.device)
        return {"loss": -(log_probabilities(self.model, batch, self.precision) / counts).sum()}

    @property
    def _rows_count_the_same(self) -> bool:
        """Only in training. The loss of a validation is always a mean over tokens, so that two runs can be compared."""
        return self.settings.loss_per == "row" and self.model.training

    # --- evaluation and self-check ----------------------------------------------------------------------------------

    def evaluate(self, rows: Sequence[EncodedExample]) -> dict[str, float]:
        """Mean loss and metrics over every response token and EOS of the rows, or over every pair.

        Leaves the model in evaluation mode.
        """
        self.model.eval()
        totals = dict.fromkeys(("loss", *self.metric_names), 0.0)
        with torch.inference_mode():
            for batch in by_length(rows, self.settings.batch_size):
                sums = self.loss_sums(batch, "response")
                totals = {name: total + sums[name].item() for name, total in totals.items()}
        return {name: total / self.loss_denominator(rows, "response") for name, total in totals.items()}

    def check_fast_path(self, window: Window) -> str | None:
        """Compute a few rows packed and padded, and compare the loss and every weight's gradient norm.

        If they differ on this machine, the run continues with padded batches.

        Returns:
            A warning, or None if both agree.
        """
        rows = [self.train.rows[index] for index in window[0][:CHECKED_ROWS]]
        (packed_loss, packed_norms), (padded_loss, padded_norms) = (
            self._loss_and_norms(rows, padded=padded) for padded in (False, True)
        )
        tolerance = LARGEST_DIFFERENCE[self.precision]
        losses_agree = abs(packed_loss - padded_loss) <= tolerance * max(1.0, abs(padded_loss))
        largest = (packed_norms - padded_norms).abs().max()
        agrees = losses_agree and bool(largest <= tolerance * torch.linalg.vector_norm(padded_norms))
        if not self.ranks.all_reduce_max(int(not agrees), self.device):
            return None
        self.reference = True
        what = "gradients that differ"
        if not losses_agree:
            what = f"a loss of {packed_loss:.6f} packed and {padded_loss:.6f} padded"
        return (
            f"the first batch: expected packed and padded rows to give the same result, got {what}. "
            f"This run uses padded rows, which is slower. Please report it, with the output of `assistant doctor`."
        )

    def _loss_and_norms(self, rows: Sequence[EncodedExample], *, padded: bool) -> tuple[float, torch.Tensor]:
        """Mean loss (nats) of some rows, and the gradient norm (W,) float32 of each trained weight."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        norms = dict.fromkeys(trained, 0.0)

        def take(weight: torch.nn.Parameter) -> None:
            """Note a gradient's norm and free it, so that all gradients never exist together."""
            norms[weight] = gradient_norm([weight])
            weight.grad = None

        hooks = [weight.register_post_accumulate_grad_hook(take) for weight in trained]  # type: ignore[no-untyped-call]
        self.model.train()
        batch = self._batch(rows, self.settings.train_on, padded=padded)
        n_targets = sum(count_targets(row, self.settings.train_on) for row in sequences(rows))
        self.model.gradient_checkpointing |= padded  # else its activations could be the largest of the run
        loss = summed_loss(self.model, batch, self.precision) / n_targets
        loss.backward()  # type: ignore[no-untyped-call]
        self.model.gradient_checkpointing = self.settings.gradient_checkpointing
        for hook in hooks:
            hook.remove()
        return loss.item(), torch.tensor(list(norms.values()))
