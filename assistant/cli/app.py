"""The command `assistant`. Torch, Textual and the rest are imported by the command that needs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from assistant import __version__
from assistant.cli.console import Commands, note, print_json
from assistant.cli.data import data_app
from assistant.cli.demo import DEMO_FOLDER, DEMO_MODEL, run_demo
from assistant.cli.options import (
    ALL_MODULES,
    ANSWER,
    Accumulation,
    Arithmetic,
    BaseModelFolder,
    BatchSize,
    Best,
    Deterministic,
    Device,
    Epochs,
    GradientCheckpointing,
    Json,
    Kept,
    LearningRate,
    LongRows,
    LoraAlpha,
    LoraModules,
    LoraRank,
    MaxGradNorm,
    MaxLength,
    MaxNewTokens,
    MaxSteps,
    MinP,
    Output,
    Overwrite,
    Patience,
    PlanOnly,
    RepetitionPenalty,
    Resume,
    SaveEvery,
    Seed,
    Shard,
    SplitSeed,
    Stop,
    Temperature,
    TestShare,
    TopK,
    TopP,
    ValidateEvery,
    ValidationAnswers,
    ValidationShare,
    WarmupSteps,
    WeightDecay,
    book_recipe,
    generation_settings,
    lora_settings,
    split_fractions,
    validate_settings,
)
from assistant.cli.prefer import prefer
from assistant.dataset.splits import DEFAULT_FRACTIONS, DEFAULT_SPLIT_SEED, SplitMethod
from assistant.errors import DataError, PrerequisiteError, SettingsError
from assistant.escape import displayable, one_line
from assistant.settings import FinetuneSettings, LoraSettings, OptimizerName, TrainOn
from assistant.shipped import find_model

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Fine-tune a GPT-2 to follow instructions, and talk with it. `evaluation` scores what it answers.",
)
app.add_typer(data_app, name="data")

DEFAULTS = FinetuneSettings()
LORA = LoraSettings()


def main() -> None:
    """The console script."""
    app(prog_name="assistant")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"assistant {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version  # its callback has done the work


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the model and the report.")] = DEMO_FOLDER,
    seed: Seed = DEFAULTS.seed,
    as_json: Json = False,
) -> None:
    """The whole main job on the embedded default: fine-tune pocket, answer the test rows, score, report.

    Example: `assistant demo`
    """
    validate_settings(FinetuneSettings, seed=seed)
    raise typer.Exit(run_demo(output, seed=seed, as_json=as_json))


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Argument(help="A model folder or pocket; the demo's where none is given.")
    ] = None,
    max_new_tokens: MaxNewTokens = ANSWER.max_new_tokens,
    temperature: Temperature = ANSWER.temperature,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = ANSWER.repetition_penalty,
    seed: Seed = ANSWER.seed,
    stop: Stop = None,
    precision: Kept = "auto",
) -> None:
    """Chat in the terminal.

    Example: `assistant chat runs/mine --temperature 0.7`
    """
    from assistant.tui.app import run_chat

    settings = generation_settings(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop)
    raise typer.Exit(run_chat(_model_or_demo(model), settings, precision=precision))


@app.command()
def ask(
    model: Annotated[
        str | None, typer.Argument(help="A model folder or pocket; the demo's where none is given.")
    ] = None,
    text: Annotated[str | None, typer.Argument(help="The instruction; read from stdin where none is given.")] = None,
    input_text: Annotated[str, typer.Option("--input", help="The text the instruction is about.")] = "",
    max_new_tokens: MaxNewTokens = ANSWER.max_new_tokens,
    temperature: Temperature = ANSWER.temperature,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = ANSWER.repetition_penalty,
    seed: Seed = ANSWER.seed,
    stop: Stop = None,
    logprobs: Annotated[
        int | None, typer.Option(help="With --json: each token's log-probability, and those of so many likeliest.")
    ] = None,
    device: Device = "auto",
    precision: Kept = "auto",
    as_json: Json = False,
) -> None:
    """Answer one instruction and end, for scripts and pipes.

    Example: `assistant ask runs/mine "Name a synonym of happy."`  or  `echo "Name a synonym of happy." | assistant ask`
    """
    if model is not None and text is None and len(model.split()) > 1 and not os.path.isdir(model):  # noqa: PTH112
        model, text = None, model  # a sentence that stands alone is the instruction; pathlib cannot ask for long ones
    settings = generation_settings(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, logprobs
    )
    if logprobs is not None and not as_json:
        note("note: --logprobs does nothing without --json.")
    folder = _model_or_demo(model)
    text = _read_instruction() if text is None else text
    if not text.strip():
        raise SettingsError("instruction: expected some text, got nothing. Write it behind the model, or pipe it in.")

    from assistant.decoding.session import Session

    session = Session.load(folder, device=device, precision=precision)
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    safe = displayable if on_terminal else str  # a pipe gets the model's own words
    if as_json:
        reply = session.reply(text, input=input_text, settings=settings)
        print_json(reply.model_dump(mode="json"))
        return
    session.reply(text, input=input_text, settings=settings, on_text=lambda new: print(safe(new), end="", flush=True))
    print()


@app.command()
def finetune(
    data: Annotated[list[Path], typer.Argument(help="Instruction files, JSON or JSONL.")],
    model: BaseModelFolder,
    output: Output,
    split: Annotated[
        SplitMethod, typer.Option(help="Keep equal prompts on one side, or take the file's order.")
    ] = "grouped",
    split_seed: SplitSeed = DEFAULT_SPLIT_SEED,
    test_share: TestShare = DEFAULT_FRACTIONS[1],
    validation_share: ValidationShare = DEFAULT_FRACTIONS[2],
    epochs: Epochs = DEFAULTS.epochs,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = DEFAULTS.batch_size,
    gradient_accumulation_steps: Accumulation = DEFAULTS.gradient_accumulation_steps,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train small matrices beside frozen weights; try --learning-rate 2e-4.")
    ] = False,
    lora_rank: LoraRank = LORA.rank,
    lora_alpha: LoraAlpha = LORA.alpha,
    lora_modules: LoraModules = ALL_MODULES,
    freeze_embeddings: Annotated[
        bool, typer.Option("--freeze-embeddings", help="Leave words where pretraining put them: less is forgotten.")
    ] = False,
    optimizer: Annotated[OptimizerName, typer.Option(help="adamw, or muon for pretraining.")] = DEFAULTS.optimizer,
    learning_rate: LearningRate = DEFAULTS.learning_rate,
    warmup_steps: WarmupSteps = DEFAULTS.warmup_steps,
    weight_decay: WeightDecay = DEFAULTS.weight_decay,
    max_grad_norm: MaxGradNorm = 1.0,
    train_on: Annotated[TrainOn, typer.Option(help="Which tokens count in the loss.")] = DEFAULTS.train_on,
    template: Annotated[
        str, typer.Option(help="alpaca, alpaca-stanford, phi3, or text for plain text.")
    ] = DEFAULTS.template,
    max_length: MaxLength = None,
    too_long: LongRows = DEFAULTS.too_long,
    precision: Arithmetic = DEFAULTS.precision,
    gradient_checkpointing: GradientCheckpointing = False,
    deterministic: Deterministic = False,
    shard: Shard = False,
    validate_every: ValidateEvery = None,
    validation_answers: ValidationAnswers = DEFAULTS.validation_answers,
    best_by: Best = DEFAULTS.best_by,
    patience: Patience = None,
    seed: Seed = DEFAULTS.seed,
    device: Device = "auto",
    save_every: SaveEvery = 60.0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    book: Annotated[
        bool, typer.Option("--book", help="The book's recipe to the letter; other options of the recipe are refused.")
    ] = False,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a GPT-2 on instruction files.

    Example: `assistant finetune mine.json --model gpt2 --output runs/mine --epochs 2`
    """
    settings = validate_settings(
        FinetuneSettings,
        lora=lora_settings(lora_rank, lora_alpha, lora_modules) if lora else None,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        freeze_embeddings=freeze_embeddings,
        optimizer=optimizer,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm or None,
        train_on=train_on,
        template=template,
        max_length=max_length,
        too_long=too_long,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        validate_every=validate_every,
        validation_answers=validation_answers,
        best_by=best_by,
        patience=patience,
        seed=seed,
    )
    if book:
        settings, split = book_recipe(settings), "book"
    from assistant.cli.job import Job, carry_out

    job = Job(
        data=tuple(data),
        model=find_model(model),
        output=output,
        split=split,
        split_seed=split_seed,
        fractions=split_fractions(test_share, validation_share),
        settings=settings,
        device=device,
        deterministic=deterministic,
        shard=shard,
        save_seconds=save_every,
        resume=resume,
        overwrite=overwrite,
    )
    raise typer.Exit(carry_out(job, plan=plan, as_json=as_json))


app.command()(prefer)  # a long one, in a file of its own


@app.command()
def doctor(
    host: Annotated[str | None, typer.Option(help="Ollama's address; OLLAMA_HOST where none is given.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is installed, what is reachable, and what to do next.

    Example: `assistant doctor`
    """
    from assistant.cli.doctor import examine

    findings = examine(host)
    if as_json:
        print_json({finding.name: {"ok": finding.ok, "found": finding.found} for finding in findings})
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'ok' if finding.ok else '--'}  {finding.name:<{width}}  {one_line(finding.found)}")
        if finding.advice:
            print(f"    {'':<{width}}  {finding.advice}")


def _model_or_demo(model: str | None) -> str:
    if model is not None:
        return str(find_model(model))
    if not (DEMO_MODEL / "config.json").exists():
        raise PrerequisiteError(
            f"model: expected a folder, or the demo's in {DEMO_MODEL}, got neither. "
            f"Run `assistant demo` first, or name a model folder."
        )
    note(f"Using the demo's model in {DEMO_MODEL}.")
    return str(DEMO_MODEL)


def _read_instruction() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise SettingsError("instruction: expected some text, got none. Write it behind the model, or pipe it in.")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input: expected UTF-8, got {error.reason} at byte {error.start}.") from error
