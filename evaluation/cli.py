"""The command `evaluation`: answer a test set, score the answers, show the report. The only place that prints.

Heavy packages are imported by the command that needs them, so `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assistant.cli.console import Commands, interrupt_exit_code, note, print_json, run_program
from assistant.cli.options import Json, derive_options
from assistant.errors import AssistantError, DataError, SettingsError
from assistant.files import shown_path
from assistant.settings import EngineSettings, GenerationSettings, validate_settings
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.decoding.session import Session
    from assistant.settings import DecodePrecision
    from evaluation.judgement import JudgeSettings
    from evaluation.report import Report
    from evaluation.responses import Run

app = typer.Typer(
    cls=Commands,
    name="evaluation",
    help="Score what an instruction model answers: deterministic metrics, and a local judge where one is named.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example: evaluation respond models/mine --data instructions.json --run runs/mine")
@derive_options(leave_out={"logprobs", "device"})
def respond(
    model: Annotated[str, typer.Argument(help="Folder of the model, or pocket.", metavar="MODEL")],
    data: Annotated[list[Path], typer.Option("--data", help="Instruction file; may be repeated.", metavar="FILE")],
    run: Annotated[Path, typer.Option("--run", help="Answers folder to write.", metavar="DIR")],
    generation: GenerationSettings,
    engine: EngineSettings,
    part: Annotated[
        Literal["auto", "test", "validation", "train", "all"],
        typer.Option(help="Rows to answer; auto is the test part if the model was trained on these files, else all."),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Rows that are answered together.", min=1)] = 32,
    as_json: Json = False,
) -> None:
    """Answer a test set with a model.

    After an interruption, the same command continues where it stopped.
    """
    from assistant.dataset.instructions import read_examples
    from evaluation.responses import answer, begin_run, choose_part, count_answered, describe_model_run

    if generation.temperature == 0 and not (generation.top_k is generation.top_p is generation.min_p is None):
        note("note: --top-k, --top-p and --min-p do nothing at --temperature 0.")
    examples = read_examples(*data)
    folder = find_model(model)
    session = load_session(str(folder), engine.precision)
    chosen = choose_part(examples, part, session.info)
    note(f"rows: {chosen.reason}.")
    begin_run(run, describe_model_run(session, str(folder), [shown_path(path) for path in data], chosen, generation))
    before = count_answered(run)
    if before:
        note(f"{run}: {before} of {len(chosen.examples)} rows were answered before.")
    try:
        with _progress("answered", len(chosen.examples), start=before) as show:
            for _record in answer(session, chosen.examples, run, generation, batch_size=batch_size):
                show()
    except KeyboardInterrupt as error:
        note(f"interrupted: {run} keeps {count_answered(run)} answers. Give the same command again to go on.")
        raise typer.Exit(interrupt_exit_code(error)) from None
    _tell_answered(run, before, as_json)


@app.command(epilog="Example: evaluation score answers.json --run runs/mine --judge llama3.1")
def score(
    path: Annotated[Path, typer.Argument(help="Run folder, or a file of answers (JSON or JSONL).", metavar="PATH")],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Folder for the scores of a file; runs/<its name> by default.", metavar="DIR"),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Ollama model that judges.", metavar="MODEL")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address of Ollama; OLLAMA_HOST or this machine by default.", metavar="URL")
    ] = None,
    num_ctx: Annotated[int, typer.Option(help="The judge's context, in tokens.", min=512)] = 4096,
    timeout: Annotated[float, typer.Option(help="Longest silence of the judge, in seconds.", min=0.1)] = 300.0,
    retry_unscored: Annotated[
        bool, typer.Option("--retry-unscored", help="Ask again for every row without a score.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score answers and show the report.

    A file of answers has the fields instruction, input, output and model_response. Metrics are always computed; the
    judge is asked where one is named, and only for what it has not scored yet.
    """
    from evaluation.judgement import TRANSIENT
    from evaluation.responses import read_run
    from evaluation.scoring import write_metrics

    settings = _judge_settings(judge, host, num_ctx, timeout) if judge is not None else None
    if settings is None and (host is not None or retry_unscored):
        note("note: --host and --retry-unscored do nothing without --judge.")
    folder = _run_folder(path, run)
    stored = read_run(folder)
    write_metrics(stored)
    failure: AssistantError | None = None
    interrupted: KeyboardInterrupt | None = None
    if settings is not None:
        try:
            _ask_judge(stored, settings, retry_unscored)
        except AssistantError as error:
            failure = error
        except KeyboardInterrupt as error:
            interrupted = error
    found = _reported(folder)
    _show(found, folder, as_json)
    if interrupted is not None:
        note(f"interrupted: {folder} keeps what was judged. Give the same command again to go on.")
        raise typer.Exit(interrupt_exit_code(interrupted))
    if failure is not None:
        raise failure
    if settings is not None and (passing := TRANSIENT & set(found.unscored)):
        note(f"note: {', '.join(sorted(passing))} may pass; the same command asks only for these rows again.")


@app.command(epilog="Example: evaluation report runs/mine")
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder that was scored.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Show the report of a scored run, and write it to report.json and report.md in its folder."""
    _show(_reported(folder), folder, as_json)


def load_session(model: str, precision: DecodePrecision) -> Session:
    """The model, loaded. Torch comes in here and nowhere earlier."""
    from assistant.decoding.session import Session

    return Session.load(model, precision=precision, may_draft=False)


# --- parts of the commands ----------------------------------------------------------------------------------------


def _judge_settings(model: str, host: str | None, num_ctx: int, timeout: float) -> JudgeSettings:
    from assistant.ollama_server import find_host
    from evaluation.judgement import JudgeSettings

    if not model.strip():
        raise SettingsError(f"--judge: expected the name of an Ollama model, got {model!r}. Try: --judge llama3.1")
    url = find_host(host)
    return validate_settings(
        JudgeSettings,
        {
            "model": model.strip(),
            "url": url,
            "num_ctx": num_ctx,
            "silence_timeout_s": timeout,
            "deadline_s": 3 * timeout,
        },
    )


def _run_folder(path: Path, run: Path | None) -> Path:
    """The run folder that PATH is, or the one made of the file that it is."""
    from evaluation.responses import RESPONSES_FILE, RUN_FILE, import_answers

    if not path.exists():
        raise DataError(f"{path}: expected a run folder or a file of answers, got nothing there. Check the path.")
    if path.name == RESPONSES_FILE and (path.parent / RUN_FILE).exists():
        path = path.parent
    if path.is_dir():
        if run is not None and run.resolve() != path.resolve():
            raise SettingsError(f"--run: expected none, got {str(run)!r}: {path} is a run folder itself. Leave it out.")
        return path
    folder = run if run is not None else Path("runs") / path.stem
    import_answers(path, folder)
    return folder


def _ask_judge(run: Run, settings: JudgeSettings, retry_unscored: bool) -> None:
    from evaluation.judge import Judge
    from evaluation.scoring import judge_run

    with Judge(settings) as judge:
        steps = judge_run(run, judge, retry_unscored=retry_unscored)
        total = next(steps).total
        if total == 0:
            note(f"judge {settings.model}: nothing left to ask.")
            return
        note(f"judge {settings.model} at {settings.url}: {total} to ask; the first answer waits for the model to load.")
        with _progress("judged", total) as show:
            for _step in steps:
                show()


def _reported(folder: Path) -> Report:
    from evaluation.render import as_markdown
    from evaluation.report import make_report, write_report

    found = make_report(folder)
    write_report(folder, found, as_markdown(found))
    return found


# --- showing ------------------------------------------------------------------------------------------------------


def _show(found: Report, folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.console import Console

    from evaluation.render import terminal

    Console(highlight=False).print(terminal(found))
    note(f"written: {folder / 'report.md'}, {folder / 'report.json'}")


def _tell_answered(run: Path, before: int, as_json: bool) -> None:
    from evaluation.responses import read_run

    responses = read_run(run).responses
    refused = sum(record.response is None for record in responses)
    if as_json:
        counts = {"run": str(run), "rows": len(responses), "new": len(responses) - before, "without_response": refused}
        print_json(counts)
        return
    without = f", {refused} without a response" if refused else ""
    typer.echo(f"{run}: {len(responses)} rows answered, {len(responses) - before} of them now{without}.")
    typer.echo(f"Next: evaluation score {run}")


@contextmanager
def _progress(verb: str, total: int, *, start: int = 0) -> Iterator[Callable[[], None]]:
    """Yields what to call after each row. A bar on a terminal; in a pipe a line every tenth."""
    if not sys.stderr.isatty():
        done = start

        def count() -> None:
            nonlocal done
            done += 1
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                note(f"{verb} {done} of {total}")

        yield count
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=total, completed=start)
        yield lambda: bar.advance(task)


def main() -> None:
    """The console script."""
    run_program(app, "evaluation")
