"""`assistant data`: validate, split, check and show instruction files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from assistant.cli.console import EXIT_FAILURE, note, print_json
from assistant.cli.options import DataFiles, Json, derive_options
from assistant.errors import SettingsError
from assistant.escape import displayable, one_line, visible
from assistant.files import write_atomic
from assistant.settings import FinetuneSettings, SplitSettings, TrainOn
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.dataset.encode import EncodedExample
    from assistant.dataset.instructions import Example
    from assistant.dataset.splits import Splits
    from assistant.dataset.tokenizer import Tokenizer

data_app = typer.Typer(no_args_is_help=True, help="Validate, split, check and show instruction files.")

FIELDS = FinetuneSettings.model_fields.keys()


@data_app.command("split")
@derive_options(names={"split_seed": "--seed"})
def data_split(
    data: DataFiles,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for train.json, validation.json, test.json.")],
    split: SplitSettings,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the three files.")] = False,
    as_json: Json = False,
) -> None:
    """Validate instruction files and write their three parts, split as `finetune` splits them.

    Example: `assistant data split mine.json --output data/mine`
    """
    from assistant.dataset.instructions import dump_rows, read_examples
    from assistant.dataset.splits import split_examples

    splits = split_examples(read_examples(*data), method=split.split, seed=split.split_seed, fractions=split.fractions)
    paths = {part: output / f"{part}.json" for part in ("train", "validation", "test")}
    existing = [str(path) for path in paths.values() if path.exists()]
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


@data_app.command("check")
@derive_options(leave_out=FIELDS - {"template"}, names={"split_seed": "--seed"})
def data_check(
    data: DataFiles,
    split: SplitSettings,
    settings: FinetuneSettings,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also look for rows longer than this model's context.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(help="New file without repeated, contradicting and long rows; near twins share a group."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find repeated and contradicting rows, test rows with a twin in training, and answers that look wrong.

    Exits with 1 if it finds some. Answers that only look wrong are listed and do not count.

    Example: `assistant data check mine.json --fix mine-fixed.json`
    """
    from assistant.dataset.check import check_examples, describe_findings, findings_as_json, fix_examples
    from assistant.dataset.instructions import dump_rows, read_examples
    from assistant.dataset.splits import split_examples

    if fix is not None and fix.exists():
        raise SettingsError(f"--fix {fix}: expected a name for a new file, got one that exists. Choose another.")

    def split_again(examples: Sequence[Example]) -> Splits:
        return split_examples(examples, method=split.split, seed=split.split_seed, fractions=split.fractions)

    examples = read_examples(*data)
    positions, context_length = _row_length(model, settings.template) if model is not None else (None, 0)
    findings = check_examples(examples, split_again(examples), positions=positions, context_length=context_length)
    record = findings_as_json(findings)
    if not as_json:
        for line in describe_findings(findings):
            print(one_line(line))
    if fix is not None:
        fixed = fix_examples(examples, findings, split_again)
        write_atomic(fix, dump_rows(fixed.examples))
        record["fixed"] = {
            "file": str(fix),
            "left_out": [{"file": example.source, "row": example.row} for example in fixed.left_out],
            "grouped": fixed.grouped,
        }
        note(
            f"{fix}: written without {len(fixed.left_out)} rows; {fixed.grouped} rows got a group. The first of "
            f"contradicting rows stays, so look at those above. Suspicious answers are unchanged."
        )
    if as_json:
        print_json(record)
    if not findings.is_clean:
        raise typer.Exit(EXIT_FAILURE)


def _row_length(model: str, template: str) -> tuple[Callable[[Example], int], int]:
    """A function from a row to the positions that it takes, and the model's context length."""
    from assistant.dataset.prompts import get_template
    from assistant.dataset.tokenizer import read_tokenizer
    from assistant.model.checkpoint import read_config

    folder = find_model(model)
    tokenizer, prompts = read_tokenizer(folder), get_template(template)

    def positions(example: Example) -> int:
        if example.is_text:
            return 0  # it continues in further rows
        prompt = prompts.render(example.instruction, example.input, example.history)
        answers = [tokenizer.encode(answer) for answer in (example.output, example.rejected or "")]
        return len(tokenizer.encode(prompt)) + max(map(len, answers))

    return positions, read_config(folder).context_length


@data_app.command("show")
@derive_options(leave_out=FIELDS - {"template", "train_on"})
def data_show(
    data: DataFiles,
    settings: FinetuneSettings,
    model: Annotated[str, typer.Option("--model", "-m", help="Whose tokens: a model folder, or pocket.")] = "pocket",
    row: Annotated[int, typer.Option(min=1, help="Row number, counted from 1 as in the file.")] = 1,
    as_json: Json = False,
) -> None:
    """Show a row as the model sees it: every token, and whether it counts in the loss.

    Example: `assistant data show mine.json --model gpt2 --row 3`
    """
    from assistant.dataset.encode import encode_examples
    from assistant.dataset.instructions import read_examples
    from assistant.dataset.prompts import get_template
    from assistant.dataset.tokenizer import read_tokenizer
    from assistant.model.checkpoint import read_config

    folder = find_model(model)
    tokenizer, context_length = read_tokenizer(folder), read_config(folder).context_length
    examples = [example for example in read_examples(*data) if example.row == row]
    if not examples:
        raise SettingsError(f"--row: expected a row of {', '.join(map(str, data))}, got {row}. Choose another.")
    encoded = encode_examples(examples, get_template(settings.template), tokenizer, max_length=context_length)
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
    from assistant.dataset.tokenizer import EOS_TOKEN

    first = row.prompt_length if train_on == "response" else 1
    return [
        Token(
            id=token_id,
            text=EOS_TOKEN if token_id == tokenizer.eos_id else tokenizer.decode([token_id]),
            learnt=position >= first,
        )
        for position, token_id in enumerate(row.input_ids)
    ]
