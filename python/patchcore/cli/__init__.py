"""The ``patchcore`` command: which commands there are, and what an error looks like. Each is loaded when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Final

from patchcore.errors import DataError, ExitCode, PatchcoreError
from patchcore.interrupts import second_interrupt_kills

if TYPE_CHECKING:
    import typer

__all__ = ["COMMANDS", "build_app", "main"]

COMMANDS: Final = (
    "analyze",
    "check",
    "plan",
    "prepare",
    "inspect",
    "train",
    "evaluate",
    "predict",
    "compare",
    "dashboard",
    "runs",
    "models",
    "profile",
    "import",
    "phantom",
)
"""In the order of a project. Each is a module of this package with a function of its name, or a sub-app ``app``."""


_GOES_ON = ("analyze", "prepare", "import", "phantom")
"""Commands of long work on cases: after Ctrl-C the next call goes on with those that are missing."""


def build_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """Return the command-line app with some of the commands."""
    import typer

    app = typer.Typer(
        name="patchcore",
        help="Measure every lesion, choose the ViT patch size that fits, train a UNETR of that size.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    def version(value: bool) -> None:
        if value:
            _print_version()
            raise typer.Exit

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Show the version."),
    ) -> None:
        pass

    for name in commands:
        # ``import`` is a word of Python's own: its module and function are called ``import_``.
        spelled = f"{name}_" if iskeyword(name) else name
        module = import_module(f"{__name__}.{spelled}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, spelled))
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one paragraph on stderr.

    Args:
        argv: Arguments without the program's name; default: the process's.

    Returns:
        An exit code of :class:`patchcore.types.ExitCode`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        # Without loading a single command.
        _print_version()
        return ExitCode.DONE
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        if named == "dashboard" and len(arguments) == 2 and not arguments[1].startswith("-"):
            # typer loads pydantic to read arguments; the dashboard's first paint does not wait for either.
            import_module(f"{__name__}.dashboard").dashboard(Path(arguments[1]))
            return ExitCode.DONE
        if named == "analyze" and (known := _unchanged(arguments[1:])) is not None:
            print("Nothing has changed since the last analysis.", file=sys.stderr)
            sys.stdout.write(known[0])
            return known[1]
        with second_interrupt_kills() if named in _GOES_ON else nullcontext():
            build_app((named,) if named else COMMANDS)(args=arguments, prog_name="patchcore")
    except SystemExit as ending:
        if ending.code == ExitCode.INTERRUPTED:
            _tell_interrupted(named)
        return ending.code if isinstance(ending.code, int) else ExitCode.DONE if ending.code is None else ExitCode.ERROR
    except KeyboardInterrupt:
        _tell_interrupted(named)
        return ExitCode.INTERRUPTED
    except PatchcoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, DataError) else ExitCode.ERROR
    except BrokenPipeError:
        # The reader of our output has seen enough; Python must not complain again at its own exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ERROR
    except OSError as error:
        print(f"error: {_os_error(error)}", file=sys.stderr)
        return ExitCode.ERROR
    return ExitCode.DONE


def _tell_interrupted(command: str | None) -> None:
    goes_on = ": what is done is kept, and the same command goes on" if command in _GOES_ON else ""
    print(f"interrupted{goes_on}", file=sys.stderr)


def _unchanged(arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return the answer to ``analyze DATASET STUDY [--json]`` where nothing has changed since the last time."""
    named = [argument for argument in arguments if argument != "--json"]
    if len(named) != 2 or len(arguments) > 3 or any(argument.startswith("-") for argument in named):
        return None
    from patchcore.datasets.unchanged import answer

    return answer(named[0], named[1], as_json=len(arguments) == 3)


def _print_version() -> None:
    from patchcore import __version__

    print(f"patchcore {__version__}")


def _os_error(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what
