"""The command `evaluation`: answer a test set, score the answers, show the report. The only place that prints.

Heavy packages are imported by the command that needs them, so `--help` answers at once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assistant.cli.console import Commands, interrupt_exit_code, note, print_json, run_program
from assistant.cli.datasets import read_data
from assistant.cli.options import A_MODEL, Json, derive_options
from assistant.errors import AssistantError, DataError, JudgeError, SettingsError
from assistant.files import shown_path
from assistant.settings import DataSettings, EngineSettings, GenerationSettings
from assistant.shipped import find_model
from evaluation.cli.judge import check_judge, compare
from evaluation.cli.people import label, pairs
from evaluation.cli.progress import Bar, progress
from evaluation.cli.reports import (
    FailUnder,
    MaxUnscored,
    PassMark,
    check_limits,
    enforce_limits,
    report,
    runs,
    show,
    write_reports,
)
from evaluation.figures import PASS_MARK
from evaluation.judging.judge_options import JudgeOptions

if TYPE_CHECKING:
    from assistant.decoding.session import Session
    from assistant.settings import DecodePrecision
    from evaluation.answers.folder import AnswersFolder
    from evaluation.judging.judgement import JudgeSettings
    from evaluation.judging.rubric import Method
    from evaluation.judging.scoring import Asking, JudgeRun
    from evaluation.judging.work import JudgeStep
    from evaluation.reports.values import Report

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
    samples: Annotated[int, typer.Option(help="Responses to each row; above 1 with --temperature only.", min=1)] = 1,
    reference_bits: Annotated[
        bool,
        typer.Option("--reference-bits/--no-reference-bits", help="Measure how likely the model holds each reference."),
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Rows to answer at once, as one batch.", min=1)] = 32,
    as_json: Json = False,
) -> None:
    """Answer a test set with a model.

    After an interruption, the same command continues where it stopped.
    """
    from evaluation.answers.folder import claim_folder, count_answered
    from evaluation.answers.responses import answer, check_samples, choose_part, describe_answers, seen_in_training

    if generation.temperature == 0 and not (generation.top_k is generation.top_p is generation.min_p is None):
        note("note: --top-k, --top-p and --min-p do nothing at --temperature 0.")
    check_samples(samples, generation)
    examples = read_data(data, reading).examples
    folder = find_model(model)
    session = load_session(str(folder), engine.precision)
    chosen = choose_part(examples, part, session.info)
    note(f"rows: {chosen.reason}.")
    files = [shown_path(path) for path in data]
    claim_folder(run, describe_answers(session, str(folder), files, chosen, generation, samples=samples))
    before, total = count_answered(run), samples * len(chosen.examples)
    if before:
        note(f"{run}: {before} of {total} {'rows' if samples == 1 else 'responses'} were answered before.")
    answers = answer(
        session,
        chosen.examples,
        run,
        generation,
        batch_size=batch_size,
        samples=samples,
        seen=seen_in_training(folder, session.info, examples, chosen),
        reference_bits=reference_bits,
    )
    try:
        with progress("answered", total, start=before) as show:
            for _record in answers:
                show()
    except KeyboardInterrupt as error:
        note(f"interrupted: {run} keeps {count_answered(run)} answers. Give the same command again to continue.")
        raise typer.Exit(interrupt_exit_code(error)) from None
    _show_answered(run, before, as_json)


@app.command(epilog="Example: evaluation score runs/answers --judge llama3.1")
@derive_options()
def score(
    path: Annotated[
        Path, typer.Argument(help="Answers folder, or a file of answers (JSON, JSONL, CSV, TSV).", metavar="PATH")
    ],
    reading: DataSettings,
    asked: JudgeOptions,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Answers folder for a file; by default runs/<its name>.", metavar="DIR"),
    ] = None,
    retry_unscored: Annotated[
        bool, typer.Option("--retry-unscored", help="Ask again about every row without a score.")
    ] = False,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Ask again about rows judged by another version of the server.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Score this many rows only, drawn at random from each category in proportion.", min=1),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Ask three questions, and show how many are left and how long they take.")
    ] = False,
    pass_mark: PassMark = PASS_MARK,
    fail_under: FailUnder = None,
    max_unscored: MaxUnscored = None,
    as_json: Json = False,
) -> None:
    """Score answers and show the report.

    A file of answers has the fields instruction, input, output and model_response; --columns model_response=NAME names
    another field for the answers. Metrics are always computed. With --judge, the judge scores the rows that it has not
    scored yet.
    """
    from evaluation.answers.folder import read_answers
    from evaluation.judging.scoring import PLAN_QUESTIONS, Asking, write_metrics
    from evaluation.reports.score_log import log_score

    check_limits(max_unscored)
    settings = asked.settings() if asked.judge is not None else None
    if settings is None and (asked.host or retry_unscored or rejudge or limit is not None or plan):
        note("note: --host, --retry-unscored, --rejudge, --limit and --plan do nothing without --judge.")
    asking = Asking(
        retry_unscored=retry_unscored,
        rejudge=rejudge,
        limit=limit,
        n_questions=PLAN_QUESTIONS if plan else None,
        controls=asked.controls,
    )
    method = asked.read_method()
    folder = _answers_folder(path, run, reading)
    answers = read_answers(folder)
    write_metrics(answers)
    ending: AssistantError | KeyboardInterrupt | None = None
    if settings is not None:
        try:
            done = _ask_judge(answers, settings, asking, method)
            if plan:
                _show_plan(done, settings, as_json)
                return
        except (AssistantError, KeyboardInterrupt) as error:
            ending = error
    result, _rows, _page = write_reports(folder, pass_mark)
    show(result, folder, as_json)
    if ending is None and limit is None:
        log_score(answers, result)
    _end_of_judging(result, folder, settings, ending)
    enforce_limits(result, fail_under, max_unscored)


app.command(epilog="Example: evaluation report runs/answers --csv rows.csv")(report)
app.command(epilog="Example: evaluation runs runs")(runs)
app.command(epilog="Example: evaluation check-judge --judge llama3.1")(check_judge)
app.command(epilog="Example: evaluation label runs/answers --count 20")(label)
app.command(epilog="Example: evaluation pairs runs/samples --output pairs.json")(pairs)
app.command(epilog="Example: evaluation compare runs/one-epoch runs/two-epochs")(compare)


def load_session(model: str, precision: DecodePrecision) -> Session:
    """Load the model. Nothing before this call imports torch."""
    from assistant.decoding.session import Session

    session = Session.load(model, precision=precision, may_draft=False)
    if session.template_note:
        note(f"note: {session.template_note}")
    return session


# --- parts of the commands ----------------------------------------------------------------------------------------


def _end_of_judging(
    result: Report,
    folder: Path,
    settings: JudgeSettings | None,
    ending: AssistantError | KeyboardInterrupt | None,
) -> None:
    """End the command, after the report, if the judge was stopped or failed. Say which failures may be temporary."""
    from evaluation.judging.judgement import TRANSIENT

    if isinstance(ending, KeyboardInterrupt):
        note(f"interrupted: {folder} keeps what was judged. Give the same command again to continue.")
        raise typer.Exit(interrupt_exit_code(ending))
    if ending is not None:
        raise ending
    if settings is not None and result.judge_failed:
        raise JudgeError(
            f"judge: expected a verdict from {settings.model!r}, got none for any row. "
            f"The reasons are in {shown_path(folder / 'judgements.jsonl')}. Try another judge."
        )
    if settings is not None and (transient := TRANSIENT & set(result.unscored)):
        reasons = ", ".join(sorted(transient))
        note(f"note: {reasons} may be temporary. The same command asks again about these rows only.")


def _answers_folder(path: Path, run: Path | None, reading: DataSettings) -> Path:
    """Return PATH if it is an answers folder. If it is a file of answers, write it into an answers folder first."""
    from evaluation.answers.files import import_answers
    from evaluation.answers.folder import RESPONSES_FILE, RUN_FILE

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
    for sentence in import_answers(path, folder, reading):
        note(f"note: {sentence}")
    return folder


def _ask_judge(answers: AnswersFolder, settings: JudgeSettings, asking: Asking, method: Method) -> JudgeRun:
    from evaluation.judging.scoring import judge_answers

    with Bar("judged") as bar:

        def start(run: JudgeRun) -> None:
            for sentence in run.notes:
                note(f"note: {sentence}")
            if run.reused:
                note(f"judge {settings.model}: {run.reused} verdicts are known from other runs.")
            if run.questions:
                where = ", ".join(run.urls)
                note(f"judge {settings.model} at {where}: {_to_ask(run, asking)}. The server loads the model first.")
            else:
                note(f"judge {settings.model}: no questions left.")

        def step(step: JudgeStep) -> None:
            if step.outcome is None:
                bar.start(step.total)
            else:
                bar.step()

        run = judge_answers(answers, settings, asking, method=method, on_start=start, on_step=step)
    for fault in run.faults:
        note(f"note: the other servers did the rest. {fault}")
    return run


def _to_ask(run: JudgeRun, asking: Asking) -> str:
    """Return how many questions follow. The progress counts responses, and equal ones share a question."""
    if asking.n_questions is not None and asking.n_questions < run.questions:
        return f"{asking.n_questions} of {run.questions} questions to ask"
    if run.questions == run.responses:
        return f"{run.questions} to ask"
    return f"{run.questions} {'question' if run.questions == 1 else 'questions'} to ask about {run.responses} responses"


def _show_plan(run: JudgeRun, settings: JudgeSettings, as_json: bool) -> None:
    left = run.questions - len(run.seconds)
    each = sum(run.seconds) / len(run.seconds) if run.seconds else None
    seconds = None if each is None else each * left / (len(run.urls) * settings.parallel)
    if as_json:
        print_json({"questions": run.questions, "asked": len(run.seconds), "seconds_each": each, "seconds": seconds})
        return
    typer.echo(
        f"{run.questions} questions to {settings.model}; {len(run.seconds)} are asked now and their scores kept."
    )
    if run.failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(run.failed).items()))
        typer.echo(f"Without a score: {reasons}. If that stays so, try another judge or another --method.")
    if each is not None and seconds is not None:
        in_flight = len(run.urls) * settings.parallel
        typer.echo(
            f"A question takes {each:.1f} s; {left} are left: about {_duration(seconds)}, {in_flight} at a time."
        )
    typer.echo("Next: the same command without --plan")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


# --- showing ------------------------------------------------------------------------------------------------------


def _show_answered(run: Path, before: int, as_json: bool) -> None:
    from evaluation.answers.folder import read_answers

    responses = read_answers(run).responses
    n_new = len(responses) - before
    n_without = sum(record.response is None for record in responses)
    if as_json:
        print_json({"run": str(run), "rows": len(responses), "new": n_new, "without_response": n_without})
        return
    without = f", {n_without} without a response" if n_without else ""
    typer.echo(f"{run}: {len(responses)} rows answered, {n_new} of them now{without}.")
    typer.echo(f"Next: evaluation score {run}")


def main() -> None:
    """Run the command line."""
    run_program(app, "evaluation")
