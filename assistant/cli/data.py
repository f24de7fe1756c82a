"""`assistant data`: split, convert, check and show instruction files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from assistant.cli.console import EXIT_FAILURE, note, print_json
from assistant.cli.datasets import read_data
from assistant.cli.options import A_MODEL, DataFiles, Json, derive_options
from assistant.errors import SettingsError
from assistant.escape import displayable, one_line, visible
from assistant.files import write_atomic
from assistant.settings import DataSettings, FinetuneSettings, SplitSettings, TrainOn
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.dataset.check import Findings
    from assistant.dataset.encode import EncodedExample
    from assistant.dataset.instructions import Example
    from assistant.dataset.splits import Splits
    from assistant.dataset.tokenizer import Tokenizer

data_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Split, convert, check and show instruction files.",
)

FIELDS = FinetuneSettings.model_fields.keys()


@data_app.command("split")
@derive_options(names={"split_seed": "--seed"})
def data_split(
    data: DataFiles,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for train.json, validation.json, test.json.")],
    split: SplitSettings,
    reading: DataSettings,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the three files.")] = False,
    as_json: Json = False,
) -> None:
    """Write the training, validation and test rows of instruction files, split as `finetune` splits them.

    Example: `assistant data split mine.json --output data/mine`
    """
    from assistant.dataset.instructions import dump_rows
    from assistant.dataset.splits import split_examples

    examples = read_data(data, reading).examples
    splits = split_examples(examples, method=split.split, seed=split.split_seed, fractions=split.fractions)
    paths = {part: output / f"{part}.json" for part in ("train", "validation", "test")}
    existing = [str(path) for path in paths.values() if os.path.lexists(path)]
    if existing and not overwrite:
        raise SettingsError(f"{output}: expected no earlier parts, got {', '.join(existing)}. Add --overwrite.")
    for part, path in paths.items():
        write_atomic(path, dump_rows(splits.part(part)))
    rows = {part: len(splits.part(part)) for part in paths}
    if as_json:
        print_json({"rows": rows, "files": {part: str(path) for part, path in paths.items()}})
    else:
        for part, path in paths.items():
            print(f"{part:<11} {rows[part]:>6} rows   {path}")


@data_app.command("convert")
@derive_options()
def data_convert(
    files: Annotated[
        list[Path],
        typer.Argument(help="Files to read, then the new file; - is stdin or stdout.", metavar="FILE... NEW"),
    ],
    reading: DataSettings,
    to: Annotated[
        Literal["alpaca", "messages", "sharegpt", "preference"] | None,
        typer.Option(help="Row form of the new file; by default each row keeps its own.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the new file.")] = False,
    as_json: Json = False,
) -> None:
    """Convert instruction files to another format: .json, .jsonl, .csv, .tsv or .parquet, each also with .gz.

    Fields without a meaning for fine-tuning are kept. A form that cannot hold all text is refused.

    Example: `assistant data convert mine.csv mine.jsonl --columns instruction=question,output=answer`
    """
    from assistant.dataset.convert import check_target, convert_rows, encode_rows, json_lines

    *sources, target = files
    if not sources:
        raise SettingsError(f"files: expected one or more to read and then the new one, got {target} only. Name both.")
    to_stdout = target == Path("-")
    if not to_stdout:
        check_target(target)
        if os.path.lexists(target) and not overwrite:  # a dangling link counts, too
            raise SettingsError(f"{target}: expected a name for a new file, got one that exists. Add --overwrite.")
    dataset = read_data(sources, reading, keep_others=True)
    rows = convert_rows(dataset.examples, to, others=dataset.others)
    if to_stdout:
        print(json_lines(rows), end="")
        return
    write_atomic(target, encode_rows(rows, target))
    if as_json:
        print_json({"rows": len(rows), "file": str(target), "skipped": dataset.n_skipped, "notes": dataset.notes})
    else:
        print(one_line(f"{target}: {len(rows)} rows."))


@data_app.command("check")
@derive_options(leave_out=FIELDS - {"template"}, names={"split_seed": "--seed"})
def data_check(
    data: DataFiles,
    split: SplitSettings,
    settings: FinetuneSettings,
    reading: DataSettings,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also look for rows longer than this model's context.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            help="Write this new file, without repeated, contradicting and too long rows; twins get the same group."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find repeated and contradicting rows, test rows with a twin in training, and answers that look wrong.

    The exit code is 1 if it finds any. Answers that only look wrong do not count.

    Example: `assistant data check mine.json --fix mine-fixed.json`
    """
    from assistant.dataset.check import check_examples, describe_findings, findings_as_json
    from assistant.dataset.prompts import TEXT_TEMPLATE, get_template
    from assistant.dataset.splits import split_examples

    get_template(settings.template)
    if fix is not None and os.path.lexists(fix):
        raise SettingsError(f"--fix {fix}: expected a name for a new file, got one that exists. Choose another.")

    def split_again(examples: Sequence[Example]) -> Splits:
        return split_examples(examples, method=split.split, seed=split.split_seed, fractions=split.fractions)

    skips = reading.model_copy(update={"skip_bad": reading.skip_bad or fix is not None})
    dataset = read_data(data, skips)
    examples = dataset.examples
    positions, context_length = _row_length(model, settings.template) if model is not None else (None, 0)
    findings = check_examples(
        examples,
        split_again(examples),
        positions=positions,
        context_length=context_length,
        allow_text=settings.template == TEXT_TEMPLATE,
    )
    record = findings_as_json(findings) | {"skipped": dataset.n_skipped, "notes": list(dataset.notes)}
    if not as_json:
        for line in describe_findings(findings):
            print(one_line(line))
    if fix is not None:
        record["fixed"] = _write_fixed(fix, examples, findings, split_again, n_skipped=dataset.n_skipped)
    if as_json:
        print_json(record)
    if not findings.is_clean or (dataset.n_skipped and not reading.skip_bad):
        raise typer.Exit(EXIT_FAILURE)


def _write_fixed(
    path: Path,
    examples: Sequence[Example],
    findings: Findings,
    split_again: Callable[[Sequence[Example]], Splits],
    *,
    n_skipped: int,
) -> dict[str, Any]:
    """Write the rows that `check` keeps to a new file. Returns what was changed, as JSON."""
    from assistant.dataset.check import fix_examples
    from assistant.dataset.instructions import dump_rows

    fixed = fix_examples(examples, findings, split_again)
    write_atomic(path, dump_rows(fixed.examples))
    note(
        f"{path}: written without {len(fixed.left_out) + n_skipped} rows; {fixed.grouped} rows got a group. The first "
        f"of contradicting rows stays, so look at those above. Suspicious answers are unchanged."
    )
    return {
        "file": str(path),
        "left_out": [{"file": example.source, "row": example.row} for example in fixed.left_out],
        "grouped": fixed.grouped,
    }


def _row_length(model: str, template: str) -> tuple[Callable[[Example], int], int]:
    """A function from a row to the positions that it takes, and the model's context length."""
    from assistant.dataset.encode import encode_pieces
    from assistant.dataset.tokenizer import read_tokenizer
    from assistant.model.checkpoint import folder_template, read_config

    folder = find_model(model)
    tokenizer = read_tokenizer(folder)
    prompts = folder_template(folder, tokenizer, template)

    def positions(example: Example) -> int:
        if example.is_text:
            return 0  # it continues in further rows
        prompt = prompts.pieces(example.instruction, example.input, example.history)
        answers = [tokenizer.encode(answer) for answer in (example.output, example.rejected or "")]
        return len(encode_pieces(prompt, tokenizer)) + max(map(len, answers))

    return positions, read_config(folder).context_length


@data_app.command("show")
@derive_options(leave_out=FIELDS - {"template", "train_on"})
def data_show(
    data: DataFiles,
    settings: FinetuneSettings,
    reading: DataSettings,
    model: Annotated[str, typer.Option("--model", "-m", help=f"Model with the tokenizer. {A_MODEL}")] = "pocket",
    row: Annotated[
        int | None,
        typer.Option(min=1, help="Row number, as in messages; by default the first row.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a row as the model sees it: every token, and whether it counts in the loss.

    Example: `assistant data show mine.json --model gpt2 --row 3`
    """
    from assistant.dataset.encode import encode_examples
    from assistant.dataset.tokenizer import read_tokenizer
    from assistant.model.checkpoint import folder_template, read_config

    folder = find_model(model)
    tokenizer, context_length = read_tokenizer(folder), read_config(folder).context_length
    examples = read_data(data, reading).examples
    chosen = examples[0].row if row is None else row
    examples = [example for example in examples if example.row == chosen]
    if not examples:
        raise SettingsError(f"--row: expected a row of {', '.join(map(str, data))}, got {row}. Choose another.")
    template = folder_template(folder, tokenizer, settings.template)
    encoded = encode_examples(examples, template, tokenizer, max_length=context_length)
    rows = [_tokens(encoded_row, tokenizer, settings.train_on) for encoded_row in encoded.rows]
    if as_json:
        print_json(
            {"rows": [[token._asdict() for token in tokens] for tokens in rows], "left_out": len(encoded.dropped)}
        )
        return
    for encoded_row, tokens in zip(encoded.rows, rows, strict=True):
        learnt = sum(token.learnt for token in tokens)
        print(displayable(f"{encoded_row.example.where}: {len(tokens)} tokens, {learnt} of them learnt"))
        for token in tokens:
            print(f"{'learnt' if token.learnt else 'masked'} {token.id:>6}  {visible(token.text)}")
    for example in (*encoded.truncated, *encoded.dropped):
        note(
            f"{example.where}: longer than the {context_length} positions of the model, so it is shortened or left out."
        )


class Token(NamedTuple):
    """A token of a row, and whether it counts in the loss."""

    id: int
    text: str
    learnt: bool


def _tokens(row: EncodedExample, tokenizer: Tokenizer, train_on: TrainOn) -> list[Token]:
    """Every token of a row. The first is never a target, because nothing predicts it."""
    first = row.prompt_length if train_on == "response" else 1
    return [
        Token(
            id=token_id,
            text=tokenizer.decode([token_id]),
            learnt=position >= first,
        )
        for position, token_id in enumerate(row.input_ids)
    ]
