"""The table of verbs. Each is a function in the file of its group; nothing heavy is imported before one is called."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer
from typer.main import get_command

import daybreak
from daybreak.cli import bench, chat, compare, data, machine, model, plan, race, report, serve, tokens, train, travel, watch
from daybreak.cli.eval import evaluate


@functools.cache
def command() -> Any:
    """The whole command line as one click command."""
    app = typer.Typer(
        help="Train GPT-2 and GPT-3 from scratch: from raw text to a model that is evaluated, explained and served.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        epilog="Begin with: daybreak data prepare python:docs --out data/demo; daybreak train demo",
    )
    app.callback()(_options)
    data_app = typer.Typer(help="Turn text into tokens on disk, check them, look at them.", rich_markup_mode=None)
    data_app.command("prepare")(data.prepare)
    data_app.command("verify")(data.verify)
    data_app.command("show")(data.show)
    app.add_typer(data_app, name="data")
    tokenizer_app = typer.Typer(help="Learn a tokenizer from text, and see how one cuts it.", rich_markup_mode=None)
    tokenizer_app.command("train")(data.train_tokenizer)
    tokenizer_app.command("show")(tokens.show)
    app.add_typer(tokenizer_app, name="tokenizer")
    app.command("train", cls=train.WithSettings)(train.train)
    app.command("plan", cls=train.WithSettings)(plan.plan)
    app.command("eval")(evaluate)
    bench_app = typer.Typer(help="Measure what this machine is capable of.", rich_markup_mode=None)
    bench_app.command("train", cls=train.WithSettings)(bench.train)
    bench_app.command("optimizers", cls=train.WithSettings)(race.optimizers)
    app.add_typer(bench_app, name="bench")
    app.command("sample")(model.sample)
    app.command("serve")(serve.serve)
    app.command("chat")(chat.chat)
    app.command("report")(report.report)
    app.command("watch")(watch.watch)
    app.command("compare", cls=compare.WithBaseline)(compare.compare)
    app.command("import")(travel.import_model)
    app.command("export")(travel.export)
    app.command("doctor")(machine.doctor)
    return get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"daybreak {daybreak.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass
