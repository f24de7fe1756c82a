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
from assistant.cli.datasets import read_data
from assistant.cli.options import A_MODEL, Json, derive_options
from assistant.errors import AssistantError, DataError, SettingsError
from assistant.files import shown_path
from assistant.settings import DataSettings, EngineSettings, GenerationSettings, validate_settings
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.decoding.session import Session
    from assistant.settings import DecodePrecision
    from evaluation.answers_folder import AnswersFolder
    from evaluation.judgement import JudgeSettings
    from evaluation.report import Report

app = typer.Typer(
    cls=Commands,
    name="evaluation",
    help="Score the answers of an instruction model: deterministic metrics, and a local judge with --judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example: evaluation respond runs/mine --data mine.json --run runs/answers")
@derive_options(leave_out={"logprobs", "device"})
def respond(
    model: Annotated[str, typer.Argument(help=f"Model that answers. {A_MODEL}", metavar="MODEL")],
    data: Annotated[list[Path], typer.Option("--data", help="Instruction file; may be repeated.", metavar="FILE")],
    run: Annotated[Path, typer.Option("--run", help="Answers folder to write.", metavar="DIR")],
    reading: DataSettings,
    generation: GenerationSettings,
    engine: EngineSettings,
    part: Annotated[
        Literal["auto", "test", "validation", "train", "all"],
        typer.Option(help="Rows to answer; auto is the test part if the model was trained on these files, else all."),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="Rows to answer at once, as one batch.", min=1)] = 32,
    as_json: Json = False,
) -> None:
    """Answer a test set with a model.

    After an interruption, the same command continues where it stopped.
    """
    from evaluation.answers_folder import claim_folder, count_answered
    from evaluation.responses import answer, choose_part, describe_answers

    if generation.temperature == 0 and not (generation.top_k is generation.top_p is generation.min_p is None):
        note("note: --top-k, --top-p and --min-p do nothing at --temperature 0.")
    examples = read_data(data, reading).examples
    folder = find_model(model)
    session = load_session(str(folder), engine.precision)
    chosen = choose_part(examples, part, session.info)
    note(f"rows: {chosen.reason}.")
    claim_folder(run, describe_answers(session, str(folder), [shown_path(path) for path in data], chosen, generation))
    before = count_answered(run)
    if before:
        note(f"{run}: {before} of {len(chosen.examples)} rows were answered before.")
    try:
        with _progress("answered", len(chosen.examples), start=before) as show:
            for _record in answer(session, chosen.examples, run, generation, batch_size=batch_size):
                show()
    except KeyboardInterrupt as error:
        note(f"interrupted: {run} keeps {count_answered(run)} answers. Give the same command again to continue.")
        raise typer.Exit(interrupt_exit_code(error)) from None
    _show_answered(run, before, as_json)


@app.command(epilog="Example: evaluation score runs/answers --judge llama3.1")
def score(
    path: Annotated[Path, typer.Argument(help="Answers folder, or a file of answers (JSON or JSONL).", metavar="PATH")],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Answers folder for a file; by default runs/<its name>.", metavar="DIR"),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Ollama model that judges the answers.", metavar="MODEL")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address of Ollama; by default OLLAMA_HOST, or this machine.", metavar="URL")
    ] = None,
    num_ctx: Annotated[int, typer.Option(help="Context length of the judge, in tokens.", min=512)] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the next piece of a verdict.", min=0.1)] = 300.0,
    retry_unscored: Annotated[
        bool, typer.Option("--retry-unscored", help="Ask again about every row without a score.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score answers and show the report.

    A file of answers has the fields instruction, input, output and model_response. Metrics are always computed. With
    --judge, the judge scores the rows that it has not scored yet.
    """
    from evaluation.answers_folder import read_answers
    from evaluation.judgement import TRANSIENT
    from evaluation.scoring import write_metrics

    settings = _judge_settings(judge, host, num_ctx, timeout) if judge is not None else None
    if settings is None and (host is not None or retry_unscored):
        note("note: --host and --retry-unscored do nothing without --judge.")
    folder = _answers_folder(path, run)
    answers = read_answers(folder)
    write_metrics(answers)
    failure: AssistantError | None = None
    interrupted: KeyboardInterrupt | None = None
    if settings is not None:
        try:
            _ask_judge(answers, settings, retry_unscored)
        except AssistantError as error:
            failure = error
        except KeyboardInterrupt as error:
            interrupted = error
    result = _write_report(folder)
    _show(result, folder, as_json)
    if interrupted is not None:
        note(f"interrupted: {folder} keeps what was judged. Give the same command again to continue.")
        raise typer.Exit(interrupt_exit_code(interrupted))
    if failure is not None:
        raise failure
    if settings is not None and (transient := TRANSIENT & set(result.unscored)):
        reasons = ", ".join(sorted(transient))
        note(f"note: {reasons} may be temporary. The same command asks again about these rows only.")


@app.command(epilog="Example: evaluation report runs/answers")
def report(
    folder: Annotated[Path, typer.Argument(help="Answers folder that was scored.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Show the report of scored answers, and write it to report.json and report.md in their folder."""
    _show(_write_report(folder), folder, as_json)


@app.command(epilog="Example: evaluation compare runs/one-epoch runs/two-epochs")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Scored answers folders; the first is the baseline.", metavar="DIR...")
    ],
    different_judges: Annotated[
        bool, typer.Option("--different-judges", help="Compare scores of different judges all the same.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare runs on the same rows: is it better, or is that noise?"""
    from evaluation.compare import compare_runs

    comparison = compare_runs(runs, different_judges=different_judges)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
        return
    from rich.console import Console

    from evaluation.comparison_view import terminal

    Console(highlight=False).print(terminal(comparison))


def load_session(model: str, precision: DecodePrecision) -> Session:
    """Load the model. Nothing before this call imports torch."""
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


def _answers_folder(path: Path, run: Path | None) -> Path:
    """Return PATH if it is an answers folder. If it is a file of answers, write it into an answers folder first."""
    from evaluation.answers_folder import RESPONSES_FILE, RUN_FILE
    from evaluation.responses import import_answers

    if not path.exists():
        raise DataError(f"{path}: expected an answers folder or a file of answers, got no such path. Check the path.")
    if path.name == RESPONSES_FILE and (path.parent / RUN_FILE).exists():
        path = path.parent
    if path.is_dir():
        if run is not None and run.resolve() != path.resolve():
            raise SettingsError(
                f"--run: expected no other folder for the answers folder {path}, got {str(run)!r}. Leave out --run."
            )
        return path
    folder = run if run is not None else Path("runs") / path.stem
    import_answers(path, folder)
    return folder


def _ask_judge(answers: AnswersFolder, settings: JudgeSettings, retry_unscored: bool) -> None:
    from evaluation.judge import Judge
    from evaluation.scoring import judge_answers

    with Judge(settings) as judge:
        steps = judge_answers(answers, judge, retry_unscored=retry_unscored)
        total = next(steps).total
        if total == 0:
            note(f"judge {settings.model}: no questions left.")
            return
        note(f"judge {settings.model} at {settings.url}: {total} to ask. The server loads the model first.")
        with _progress("judged", total) as show:
            for _step in steps:
                show()


def _write_report(folder: Path) -> Report:
    from evaluation.render import as_markdown
    from evaluation.report import make_report, write_report

    report = make_report(folder)
    write_report(folder, report, as_markdown(report))
    return report


# --- showing ------------------------------------------------------------------------------------------------------


def _show(report: Report, folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    from rich.console import Console

    from evaluation.render import terminal

    Console(highlight=False).print(terminal(report))
    note(f"written: {folder / 'report.md'}, {folder / 'report.json'}")


def _show_answered(run: Path, before: int, as_json: bool) -> None:
    from evaluation.answers_folder import read_answers

    responses = read_answers(run).responses
    n_new = len(responses) - before
    n_without = sum(record.response is None for record in responses)
    if as_json:
        print_json({"run": str(run), "rows": len(responses), "new": n_new, "without_response": n_without})
        return
    without = f", {n_without} without a response" if n_without else ""
    typer.echo(f"{run}: {len(responses)} rows answered, {n_new} of them now{without}.")
    typer.echo(f"Next: evaluation score {run}")


@contextmanager
def _progress(verb: str, total: int, *, start: int = 0) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each row. A terminal shows a bar; a pipe gets a line per tenth of the rows."""
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
    """Run the command line."""
    run_program(app, "evaluation")
