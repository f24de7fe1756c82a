"""`assistant doctor`: what is installed and reachable on this machine, and what to do about the rest."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from assistant.cli.console import print_json
from assistant.cli.options import Json
from assistant.escape import one_line
from assistant.ollama_server import find_host, probe_server

DEFAULT_JUDGE = "llama3.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def doctor(
    host: Annotated[
        str | None, typer.Option(help="Address of Ollama; by default OLLAMA_HOST, or this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what is installed, what is reachable, and what to do next.

    Example: `assistant doctor`
    """
    findings = examine(host)
    if as_json:
        print_json({finding.name: {"ok": finding.ok, "found": finding.found} for finding in findings})
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'ok' if finding.ok else '--'}  {finding.name:<{width}}  {one_line(finding.found)}")
        if finding.advice:
            print(f"    {'':<{width}}  {finding.advice}")


def examine(host: str | None) -> list[Finding]:
    """Check Python, the packages, the device, the compiled loops and step, and the Ollama server at `host`."""
    return [_python(), *_packages(), _processor(), _loops(), _decoding(), *_ollama(host)]


def _python() -> Finding:
    return Finding(name="python", ok=True, found=platform.python_version())


def _packages() -> list[Finding]:
    findings = []
    for name in ("torch", "tiktoken", "textual", "ollama", "pandas"):
        try:
            findings.append(Finding(name=name, ok=True, found=version(name)))
        except PackageNotFoundError:
            advice = "Install the project again: pip install -c constraints.txt ."
            findings.append(Finding(name=name, ok=False, found="not installed", advice=advice))
    return findings


def _processor() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    if torch.cuda.is_available():
        return Finding(name="device", ok=True, found=f"{torch.cuda.get_device_name()}, and the processor, {threads}")
    return Finding(name="device", ok=True, found=f"the processor, {threads}; torch sees no GPU")


def _loops() -> Finding:
    from assistant.model import fused

    name, problem = "compiled loops", fused.problem()
    if problem is not None:
        return Finding(name=name, ok=False, found="not usable", advice=problem)
    if fused.is_compiled():
        return Finding(name=name, ok=True, found="usable, for training on the processor")
    advice = (
        "Training on the processor is a tenth slower without them. If you have a C compiler with OpenMP (gcc 12 or "
        "newer), install the project again: `make clean setup`, or with pip."
    )
    return Finding(name=name, ok=True, found="none", advice=advice)


def _decoding() -> Finding:
    from assistant.decoding import step

    name, problem, level = "decoding in C", step.problem(), step.level()
    if problem is not None:
        return Finding(name=name, ok=False, found="not usable", advice=problem)
    if level is not None:
        return Finding(name=name, ok=True, found=f"usable, the version for {level}")
    advice = "Answers are slower without it. Install the project again where there is a C compiler with OpenMP."
    return Finding(name=name, ok=True, found="none", advice=advice)


def _ollama(host: str | None) -> list[Finding]:
    status = probe_server(find_host(host))
    if status.version is None:
        advice = (
            f"Only the judge needs it. Start it with `ollama serve`, and download a judge with "
            f"`ollama pull {DEFAULT_JUDGE}`."
        )
        return [Finding(name="ollama server", ok=False, found=f"nothing answers at {status.host}", advice=advice)]
    server = Finding(name="ollama server", ok=True, found=f"{status.version} at {status.host}")
    advice = "" if status.models else f"Download a judge with `ollama pull {DEFAULT_JUDGE}`."
    found = ", ".join(status.models) or "none"
    return [server, Finding(name="ollama models", ok=bool(status.models), found=found, advice=advice)]
