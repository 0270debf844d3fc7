"""The typer application: the core's commands and those of the plugins."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from convkit.plugins import PluginManager

__all__ = ["build_app"]


def build_app(manager: PluginManager) -> typer.Typer:
    """Return the application with every command."""
    from convkit.cli import (
        adapters,
        bench,
        bisect,
        build,
        check,
        convert,
        diff,
        doctor,
        evaluate,
        inspect,
        new,
        plugins,
        report,
        run,
        sign,
        validate,
    )

    app = typer.Typer(
        name="convkit",
        help="Take a research checkpoint to a deployable engine, with the proof that both compute the same thing.",
        epilog="--no-plugin NAME, anywhere and as often as needed, leaves out a plugin.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for name, function, summary in (
        ("convert", convert.convert, "Take a checkpoint to a proved artifact."),
        ("build", build.build, "Build an engine of an artifact."),
        ("validate", validate.validate, "Prove an artifact again, on this machine."),
        ("run", run.run, "Run images, folders or videos through an artifact."),
        ("sign", sign.sign, "Sign an artifact with a key of your own."),
        ("evaluate", evaluate.evaluate, "Measure average precision on COCO annotations."),
        ("bench", bench.bench, "Time artifacts on the engines of this machine."),
        ("check", check.check, "Ask TensorRT's own parser and builder about an ONNX file."),
        ("inspect", inspect.inspect, "Look inside an artifact or an ONNX file."),
        ("bisect", bisect.bisect, "Find the nodes where two runners of an artifact part."),
        ("diff", diff.diff, "Compare two graphs, grouped by rewrite."),
        ("report", report.report, "Write what is known of an artifact as one HTML file."),
        ("adapters", adapters.adapters, "List the model families, or show one."),
        ("plugins", plugins.plugins, "List the plugins and their hooks."),
        ("doctor", doctor.doctor, "Check this machine, or explain an error text."),
    ):
        app.command(name, short_help=summary)(function)
    app.add_typer(new.app, name="new")
    manager.gather("convkit_commands", app=app)
    troubles = [f"plugin {each.name!r} of {each.distribution} is left out: {each.reason}" for each in manager.broken]
    troubles += [text for info in manager.infos() for text in info.warnings()]
    sys.stderr.writelines(f"warning: {text}\n" for text in troubles)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from convkit import __version__

        sys.stdout.write(f"convkit {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version
