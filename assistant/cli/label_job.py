"""Carries out `assistant classify train`: labelled texts in, a classifier with its report out."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from assistant.classifier.inference import classify
from assistant.classifier.label_files import read_labelled
from assistant.classifier.model_folder import Classifier, load_classifier, save_temperature
from assistant.classifier.picture import draw_confusion
from assistant.classifier.report import (
    PICTURE_FILE,
    REPORT_JSON,
    REPORT_MARKDOWN,
    Report,
    as_json,
    as_markdown,
    as_text,
)
from assistant.classifier.scores import MIN_VALIDATION_ROWS, fit_temperature, score
from assistant.classifier.split import balance_as_book, split_labelled
from assistant.cli.console import describe_os_error, note, signals_held_back
from assistant.cli.job import Job
from assistant.dataset.examples import Example
from assistant.dataset.splits import Splits
from assistant.device import pick_device
from assistant.files import write_atomic
from assistant.model.config import BIAS_NOTE
from assistant.settings import LabelDataSettings, LabelSplitSettings
from assistant.training.distributed import is_main_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assistant.classifier.scores import Floats


@dataclass(frozen=True, kw_only=True)
class LabelJob(Job):
    """A run on labelled texts."""

    next_command: ClassVar[str] = "assistant classify predict"
    split: LabelSplitSettings
    reading: LabelDataSettings = field(default_factory=LabelDataSettings)

    def read_splits(self) -> Splits:
        """The labelled texts, split. With `--book`, as many of every label as of the rarest, as the book does."""
        dataset = read_labelled(*self.data, columns=self.reading.columns, skip_bad=self.reading.skip_bad)
        notes = list(dataset.notes)
        examples = dataset.examples
        if self.settings.book:
            examples = balance_as_book(examples, self.split.split_seed)
            if n_left := len(dataset.examples) - len(examples):
                notes.append(f"--book: left out {n_left} rows, so that every label has as many as the rarest.")
        if is_main_process():
            for sentence in notes:
                note(f"note: {sentence}")
        return split_labelled(examples, self.split)

    def finish(self, splits: Splits, *, quiet: bool) -> dict[str, Any]:
        """Fit the temperature on the validation part, and report on the test part with the published weights."""
        classifier = load_classifier(self.output, device=pick_device(self.run.device))
        temperature, notes = self._fit_temperature(classifier, splits.validation)
        rows = {part: len(splits.part(part)) for part in ("train", "validation", "test")}
        if classifier.model.score.bias is not None:
            notes.append(BIAS_NOTE)
        if not splits.test:
            note("note: without test rows, nothing is reported.")
            return {"report": None}
        log_probabilities, n_cut = _log_probabilities(classifier, splits.test)
        if n_cut:
            texts = "1 test text is" if n_cut == 1 else f"{n_cut} test texts are"
            notes.append(f"{texts} longer than {classifier.max_length} tokens, so the end is not read.")
        scores = score(classifier.labels, splits.test, log_probabilities, temperature=temperature)
        report = Report(scores=scores, rows=rows, notes=tuple(notes))
        record = as_json(report)
        self._write(report)
        if not quiet:
            print(as_text(report, width=shutil.get_terminal_size((100, 24)).columns))
        return {"report": record, "accuracy": record["accuracy"], "intervals": record["intervals"]}

    def _fit_temperature(self, classifier: Classifier, validation: Sequence[Example]) -> tuple[float, list[str]]:
        """Fit the temperature, and store it in the folder. Returns it, and a note where it stays 1."""
        fitted = None
        if validation:
            targets = [classifier.labels.index(example.output) for example in validation]
            fitted = fit_temperature(_log_probabilities(classifier, validation)[0], targets)
        save_temperature(self.output, fitted or 1.0)
        if fitted is not None:
            return fitted, []
        return 1.0, [
            f"The temperature stays 1: {MIN_VALIDATION_ROWS} validation rows are needed to fit it, "
            f"and there are {len(validation)}."
        ]

    def _write(self, report: Report) -> None:
        text = json.dumps(as_json(report), ensure_ascii=True, indent=2) + "\n"
        write_atomic(self.output / REPORT_JSON, text)
        write_atomic(self.output / REPORT_MARKDOWN, as_markdown(report, title=self.output.name))
        try:
            with signals_held_back():
                picture = draw_confusion(report.scores)
            write_atomic(self.output / PICTURE_FILE, picture)
        except OSError as error:
            note(f"note: no picture of the confusion matrix. {describe_os_error(error)}")


def _log_probabilities(classifier: Classifier, examples: Sequence[Example]) -> tuple[Floats, int]:
    """Log-probabilities at temperature 1 (rows, labels), and the number of texts that were cut."""
    import numpy as np

    plain = replace(classifier, temperature=1.0)
    predictions = list(classify(plain, [example.instruction for example in examples]))
    smallest = math.exp(-80)  # a probability of 0 in float32 is smaller than that
    values = np.log(np.maximum([prediction.probabilities for prediction in predictions], smallest))
    return values, sum(prediction.was_cut for prediction in predictions)
