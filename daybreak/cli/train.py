"""`daybreak train`: a recipe or a folder, and what the command line changes of it, to a run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from daybreak.cli import speak
from daybreak.cli.data import say_assumption

if TYPE_CHECKING:
    from daybreak.cli.progress import Show
    from daybreak.settings import Settings

_MOST_PAST_BYTES = 64 << 20
"""Of a longer record the view of a resumed run shows nothing; to read it would take seconds."""


class WithSettings(TyperCommand):
    """A verb that takes path=value edits: its help ends with every setting and its sentence."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, then the settings."""
        super().format_help(ctx, formatter)
        from daybreak.config import describe
        from daybreak.recipes import ALIASES, RECIPES
        from daybreak.settings import Settings

        with formatter.section("Recipes"):
            formatter.write_text(", ".join(RECIPES))
            formatter.write_text(f"Other names of these: {', '.join(ALIASES)}")
        with formatter.section("Settings (path=value)"):
            formatter.write_dl([(f"{row.path}={written(row.value)}", row.sentence) for row in describe(Settings())])


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe such as gpt2.124m, or the folder of a run to go on with.")],
    edits: Annotated[list[str] | None, typer.Argument(metavar="path=value", help="Settings that differ from the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors and, at the end, the result in a line.")] = False,
) -> int:
    """Train a model, or go on where the same command was stopped."""
    settings, folder = request(recipe, edits or [], out)
    from daybreak import opening, story
    from daybreak.cli.progress import Quiet
    from daybreak.world import ranks_from_environment

    leads = ranks_from_environment()[0] == 0  # and speaks for all
    if opening.is_finished(folder, settings):
        opening.check_folder(folder, settings)
        if leads:
            _make_up(folder)
            speak.say(f"{folder} is finished; `daybreak sample {folder}` lets it write, another --out begins a new run")
        if as_json and leads:
            speak.result(_result(folder, _last_event(folder)), as_json, "")
        return 0
    if leads and not quiet:
        say_assumption(Path(settings.data.dir))
    last: dict[str, Any] = {}
    with _watching(settings, folder) if leads and not quiet else Quiet() as show:
        for last in story.events(settings, folder):
            show.event(last)
    if not leads:
        return 0 if last["event"] == "end" else int(last["status"])
    from daybreak.cli.card import write_card
    from daybreak.cli.report import write_report

    page = write_report([folder], folder / "report.html")
    if last["event"] == "end":
        write_card(folder)
    if last["event"] == "stop":
        speak.say(f"stopped by {last['reason']} after step {last['step']:,}; the same command goes on from there")
        if as_json:
            speak.result(_result(folder, last), as_json, "")
        if "requeue" in last:
            speak.say(last["requeue"])
        return int(last["status"])
    result = _result(folder, last)
    speak.result(result, as_json, _told(result, last, page, quiet))
    return 0


def _watching(settings: Settings, folder: Path) -> contextlib.AbstractContextManager[Show]:
    """The view of a run, with what its events do not tell: the time it will take, its text, the memory in use, its past."""
    from daybreak import machine, metrics, opening
    from daybreak.cli import beginning
    from daybreak.cli.progress import watching

    device, path = opening.own_device(settings), folder / "metrics.jsonl"

    def past() -> list[dict[str, Any]]:
        known = path.is_file() and path.stat().st_size < _MOST_PAST_BYTES
        return metrics.as_one_run(metrics.read(path)) if known else []

    def more(event: dict[str, Any]) -> list[tuple[str, str]]:
        speed, source = beginning.expected_speed(event, device, past() if event["event"] == "resume" else ())
        return [*beginning.time_row(event, speed, source), *beginning.text_row(settings)]

    def memory() -> tuple[int, int | None]:
        return machine.peak_memory(device), machine.total_memory(device)

    return watching(speak.console(), more=more, past=past, memory=memory)


def request(recipe: str, edits: list[str], out: Path | None) -> tuple[Settings, Path]:
    """The settings that a command asks for, and the run's folder."""
    from daybreak import config
    from daybreak.recipes import RECIPES, recipe_settings
    from daybreak.settings import Settings

    folder = Path(recipe)
    if (folder / "settings.json").is_file():
        settings = config.load(Settings, folder / "settings.json")
        if out is not None and out != folder:
            raise config.ConfigError([f"--out: wanted {folder} or nothing, as that run goes on in its own folder; came {out}"])
    elif recipe not in RECIPES and folder.exists():
        raise config.ConfigError(
            [f"{recipe}: wanted a recipe or a run's folder, found no settings.json in it; recipes are {', '.join(RECIPES)}"]
        )
    else:
        wrong = []
        try:
            settings = recipe_settings(recipe)
        except config.ConfigError as error:
            settings, wrong = Settings(), error.problems
        if wrong:  # the edits may be wrong too, and all is told at once
            try:
                config.edit(settings, edits)
            except config.ConfigError as error:
                wrong = wrong + error.problems
            raise config.ConfigError(wrong)
        folder = out or Path("runs") / settings.recipe
    return config.edit(settings, edits), folder


def _make_up(folder: Path) -> None:
    """Leaves what a run leaves that was not killed between its last event and its last file."""
    from daybreak.cli.card import write_card
    from daybreak.cli.report import write_report
    from daybreak.stopping import DONE, mark

    if not (folder / "metrics.jsonl").is_file():  # it was imported
        return
    if not (folder / DONE).exists():
        mark(folder, DONE)
    if not (folder / "report.html").exists():
        write_report([folder], folder / "report.html")
    if not (folder / "model" / "README.md").exists():
        write_card(folder)


def _last_event(folder: Path) -> dict[str, Any]:
    from daybreak import metrics

    path = folder / "metrics.jsonl"
    ends = [event for event in metrics.read(path) if event["event"] == "end"] if path.is_file() else []
    return ends[-1] if ends else {}


def _result(folder: Path, last: dict[str, Any]) -> dict[str, Any]:
    return {"run": str(folder), **{key: last.get(key) for key in ("step", "tokens", "val_loss", "bits_per_byte")}}


def _told(result: dict[str, Any], last: dict[str, Any], page: Path, quiet: bool) -> str:
    beside = ", ".join(f"{name} {bits:.3f}" for name, bits in last["compressors"].items())
    told = (
        f"validation loss {last['val_loss']:.4f}, perplexity {last['perplexity']:.2f}, bits per byte {last['bits_per_byte']:.3f} ({beside})"
    )
    return told if quiet else (f'{told}\nreport    {page.resolve()}\nsample    daybreak sample {result["run"]} "Once upon"')


def written(value: Any) -> str:
    """A setting's value as a person writes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
