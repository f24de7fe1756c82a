"""`assistant classify`: train a model to label texts, and label texts with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant.cli.console import note, print_json
from assistant.cli.options import A_MODEL, Json, OutputFolder, PlanOnly, book_recipe, derive_options
from assistant.errors import SettingsError
from assistant.escape import displayable, visible
from assistant.files import check_can_be_folder, check_writable, replaced_file
from assistant.settings import (
    LABEL_BOOK,
    LABEL_DEFAULTS,
    LABEL_RATE_TIMES_WIDTH,
    ClassifierSettings,
    EngineSettings,
    FinetuneSettings,
    LabelDataSettings,
    LabelSplitSettings,
    RunSettings,
    validate_settings,
)
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.classifier.label_rows import Counts, OutputKind
    from assistant.classifier.model_folder import Classifier

classify_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Train a model to label texts, and label texts with it.",
)

LabelledFiles = Annotated[
    list[Path],
    typer.Argument(
        help="Labelled texts: CSV, TSV, JSON, JSONL or Parquet with the columns text and label, also with .gz; "
        "the SMS collection's file; folders of them; or - for stdin."
    ),
]


@classify_app.command("train")
@derive_options(
    leave_out={
        "beta",
        "classifier",
        "learning_rate",
        "loss_per",
        "optimizer",
        "reading",
        "split",
        "template",
        "too_long",
        "train_on",
        "validation_answers",
    },
    defaults=LABEL_DEFAULTS,
)
def train(
    data: LabelledFiles,
    model: Annotated[Path, typer.Option("--model", "-m", help=f"Model to start from. {A_MODEL}")],
    output: OutputFolder,
    settings: FinetuneSettings,
    classifier: ClassifierSettings,
    split: LabelSplitSettings,
    run: RunSettings,
    reading: LabelDataSettings,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate; by default 0.128 divided by the model's width: 5e-4 for pocket, 1.7e-4 for gpt2.",
            show_default=False,
        ),
    ] = None,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Train a GPT-2 to label texts, and report how well it labels the test part.

    The report is on the terminal, in `report.json`, `report.md` and `confusion.png`. `--book` follows the recipe of
    Raschka's book.

    Example: `assistant classify train mail.csv --model pocket --output runs/spam`
    """
    folder = find_model(model)
    if learning_rate is None:
        learning_rate = LABEL_BOOK.learning_rate if settings.book else _default_rate(folder)
    given = settings.model_dump() | {"classifier": classifier, "learning_rate": learning_rate}
    settings = validate_settings(FinetuneSettings, given)
    if settings.patience is not None and settings.best_by == "last" and not settings.book:
        settings = settings.model_copy(update={"best_by": "loss"})  # the last weights are never better or worse
    if settings.book:
        settings = book_recipe(settings, recipe=LABEL_BOOK, defaults=LABEL_DEFAULTS)
        split = split.model_copy(update={"split": "book"})
    from assistant.cli.job import run_or_plan
    from assistant.cli.label_job import LabelJob

    job = LabelJob(
        data=tuple(data),
        model=folder,
        output=output,
        settings=settings,
        run=run,
        split=split,
        reading=reading,
    )
    raise typer.Exit(run_or_plan(job, plan=plan, as_json=as_json))


def _default_rate(folder: Path) -> float:
    from assistant.model.checkpoint import folder_to_open, read_config

    return float(f"{LABEL_RATE_TIMES_WIDTH / read_config(folder_to_open(folder)).n_embd:.2g}")


@classify_app.command("predict")
@derive_options(leave_out={"precision"})
def predict(
    model: Annotated[str, typer.Argument(help="The classifier's folder.", metavar="DIR")],
    engine: EngineSettings,
    reading: LabelDataSettings,
    text: Annotated[
        str | None,
        typer.Argument(
            help="A text, or a file of texts, or - for stdin: CSV, TSV, JSON, JSONL, Parquet, or one text a line. "
            "By default stdin.",
            metavar="[TEXT | FILE | -]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File for the rows of FILE: .csv, .tsv, .json or .jsonl; by default stdout."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON with all probabilities: one object for a text, one a line for a file."),
    ] = False,
) -> None:
    """Label a text, or every row of a file.

    A file's rows are written as they are, with two columns more: `predicted_label` and `probability`.

    Example: `assistant classify predict runs/spam "You won a prize, call now"`  or
    `assistant classify predict runs/spam mail.csv --output labelled.csv`
    """
    source = _source(text)
    if source is None and output is not None:
        raise SettingsError("--output: expected with a file of texts, got one text. Leave it out.")
    if output is not None:
        _check_output(output, source, overwrite=overwrite, as_json=as_json)
    from assistant.classifier.model_folder import load_classifier
    from assistant.device import pick_device

    classifier = load_classifier(find_model(model), device=pick_device(engine.device))
    if source is None:
        _predict_text(classifier, str(text), as_json=as_json)
    else:
        _predict_file(classifier, source, reading, output, as_json=as_json)


def _source(text: str | None) -> Path | None:
    """The file that the argument names; None for a text.

    Raises:
        SettingsError: the text is blank, it names a missing file, or there is neither a text nor a pipe.
    """
    from assistant.dataset.sources import STANDARD_INPUT, SUFFIXES, data_suffix

    if text is None and (sys.stdin is None or sys.stdin.isatty()):
        raise SettingsError("text: expected a text, a file or a pipe, got none. Type it after the classifier.")
    if text is None or text == "-":
        return STANDARD_INPUT
    if not text.strip():
        raise SettingsError("text: expected some text, got nothing. Type it after the classifier.")
    if os.path.isfile(text):  # noqa: PTH113 - pathlib cannot test very long names
        return Path(text)
    if len(text.split()) == 1 and data_suffix(Path(text)) in SUFFIXES:
        raise SettingsError(f"{text}: expected a file of texts, got no such file. Check the path.")
    return None


def _check_output(output: Path, source: Path | None, *, overwrite: bool, as_json: bool) -> None:
    if as_json:
        raise SettingsError("--json: expected without --output, got both. Name a file that ends in .jsonl instead.")
    if output.suffix.lower() not in _KINDS:
        raise SettingsError(
            f"--output: expected a name that ends in {', '.join(_KINDS)}, got {output}. Choose such a name."
        )
    if source is not None and output.exists() and source.exists() and output.samefile(source):
        raise SettingsError(f"--output: expected another file than the one that is read, got {output}. Choose another.")
    if os.path.lexists(output) and not overwrite:
        raise SettingsError(f"{output}: expected a name for a new file, got one that exists. Add --overwrite.")
    check_can_be_folder(output.parent)
    check_writable(output.parent)


_KINDS: dict[str, tuple[OutputKind, str]] = {
    ".csv": ("table", ","),
    ".tsv": ("table", "\t"),
    ".json": ("list", ""),
    ".jsonl": ("objects", ""),
}


def _predict_text(classifier: Classifier, text: str, *, as_json: bool) -> None:
    from assistant.classifier.inference import classify
    from assistant.classifier.label_rows import prediction_as_json

    (prediction,) = classify(classifier, [text])
    if as_json:
        print_json(prediction_as_json(prediction, classifier.labels))
        return
    names = [visible(label) for label in classifier.labels]
    width = max(map(len, names))
    for probability, name in sorted(zip(prediction.probabilities, names, strict=True), key=lambda pair: -pair[0]):
        print(f"{name:<{width}}  {probability:6.1%}")
    if prediction.was_cut:
        note(f"note: the text is longer than the {classifier.max_length} tokens that are read.")


def _predict_file(
    classifier: Classifier, source: Path, reading: LabelDataSettings, output: Path | None, *, as_json: bool
) -> None:
    from assistant.classifier.label_rows import Counts, label_file

    counts = Counts()
    kind: OutputKind | None = "predictions" if as_json else None
    delimiter = ""
    if output is not None:
        kind, delimiter = _KINDS[output.suffix.lower()]
    pieces = label_file(
        classifier,
        source,
        columns=reading.columns,
        skip_bad=reading.skip_bad,
        kind=kind,
        delimiter=delimiter or None,
        counts=counts,
    )
    if output is None:
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        for piece in pieces:
            print(displayable(piece) if is_terminal else piece, end="")
    else:
        with replaced_file(output) as file:
            for piece in pieces:
                file.write(piece.encode(errors="backslashreplace"))
    for line in _describe(counts, classifier):
        note(line)


def _describe(counts: Counts, classifier: Classifier) -> list[str]:
    """What was done with the rows, one sentence per line."""
    commonest: list[Any] = counts.labels.most_common(8)
    more = ", ..." if len(counts.labels) > len(commonest) else ""
    labels = ", ".join(f"{count:,} {visible(label)}" for label, count in commonest)
    lines = [f"{_rows(counts.n)} labelled: {labels}{more}." if counts.n else "No row has a text."]
    lines += [f"note: {sentence}" for sentence in counts.notes]
    if counts.n_cut:
        lines.append(f"note: {_rows(counts.n_cut)} longer than {classifier.max_length} tokens; the end was not read.")
    if counts.n_empty:
        lines.append(f"note: {_rows(counts.n_empty)} without a text, and so without a label.")
    if counts.n_bad:
        lines.append(f"note: left out {_rows(counts.n_bad)} that cannot be read. The first: {counts.problems[0]}")
    return lines


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
