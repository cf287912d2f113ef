"""The ``patchcore`` command: list of commands, error output and exit codes. A command is loaded when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Final

from patchcore.errors import DataError, ExitCode, PatchcoreError
from patchcore.interrupts import second_interrupt_kills
from patchcore.views.terminal import write_utf8

if TYPE_CHECKING:
    import typer

__all__ = ["COMMANDS", "build_app", "main"]

COMMANDS: Final = (
    "analyze",
    "check",
    "manifest",
    "plan",
    "prepare",
    "inspect",
    "train",
    "evaluate",
    "tune",
    "texture",
    "score",
    "predict",
    "export",
    "compare",
    "sweep",
    "transfer",
    "experiments",
    "report",
    "dashboard",
    "runs",
    "models",
    "profile",
    "import",
    "phantom",
)
"""Commands in the order of a project. Each is a module here, with a function of its name or a sub-app ``app``."""


_CONTINUES = ("analyze", "prepare", "evaluate", "tune", "texture", "predict", "import", "phantom")
"""Commands that process many cases: after Ctrl-C, the next call continues with the missing cases."""


def build_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """Return the command-line app with the given commands."""
    import typer

    app = typer.Typer(
        name="patchcore",
        help="Measure lesions, choose the ViT patch size that fits them, and train a UNETR with that patch size.",
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
        version: bool = typer.Option(
            False, "--version", callback=version, is_eager=True, help="Show the version and exit."
        ),
        no_locks: bool = typer.Option(  # Taken out of the arguments before, for every command.
            False, "--no-locks", help="For file systems without locks; may follow any command."
        ),
    ) -> None:
        pass

    for name in commands:
        # ``import`` is a Python keyword: the module and the function are called ``import_``.
        spelled = f"{name}_" if iskeyword(name) else name
        module = import_module(f"{__name__}.{spelled}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, spelled))
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. An error is printed as one paragraph on stderr.

    Args:
        argv: Arguments without the program name; default: those of the process.

    Returns:
        An exit code of :class:`patchcore.types.ExitCode`.
    """
    code = _run(argv)
    if sys.stdout is None:  # started with a closed stdout
        return code
    try:
        sys.stdout.flush()
    except ValueError:  # closed meanwhile
        return code
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError) and code == ExitCode.DONE:
            print(f"error: the output could not be written: {_os_error(error)}", file=sys.stderr)
            return ExitCode.ERROR
    return code


def _run(argv: Sequence[str] | None) -> int:
    write_utf8()
    arguments = _without_locks(list(sys.argv[1:] if argv is None else argv))
    if arguments == ["--version"]:
        # Fast path: loads no command.
        _print_version()
        return ExitCode.DONE
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        if named == "dashboard" and len(arguments) == 2 and not arguments[1].startswith("-"):
            # Fast path: typer and pydantic are not loaded, so the dashboard appears sooner.
            import_module(f"{__name__}.dashboard").dashboard(Path(arguments[1]))
            return ExitCode.DONE
        if named == "analyze" and (known := _unchanged(arguments[1:])) is not None:
            print("Nothing has changed since the last analysis.", file=sys.stderr)
            sys.stdout.write(known[0])
            return known[1]
        with second_interrupt_kills() if named in _CONTINUES else nullcontext():
            build_app((named,) if named else COMMANDS)(args=arguments, prog_name="patchcore")
    except SystemExit as ending:
        if ending.code == ExitCode.INTERRUPTED:
            _print_interrupted(named)
        return ending.code if isinstance(ending.code, int) else ExitCode.DONE if ending.code is None else ExitCode.ERROR
    except KeyboardInterrupt:
        _print_interrupted(named)
        return ExitCode.INTERRUPTED
    except PatchcoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE if isinstance(error, DataError) else ExitCode.ERROR
    except BrokenPipeError:  # the reader closed the pipe, e.g. head
        _drop_output()
        return ExitCode.ERROR
    except OSError as error:
        print(f"error: {_os_error(error)}", file=sys.stderr)
        return ExitCode.ERROR
    return ExitCode.DONE


def _drop_output() -> None:
    """Redirect stdout, so that Python prints no second error at exit and keeps the exit code."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_locks(arguments: list[str]) -> list[str]:
    """Remove ``--no-locks``, which every command takes, and turn locks off for this process and those it starts."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--no-locks" not in options:
        return arguments
    from patchcore.locks import NO_LOCKS, WHAT_IS_LOST

    os.environ[NO_LOCKS] = "1"
    print(f"note: {WHAT_IS_LOST}", file=sys.stderr)
    rest = arguments[len(options) :]
    return [argument for argument in options if argument != "--no-locks"] + rest


def _print_interrupted(command: str | None) -> None:
    hint = ": finished cases are kept; run the same command again to continue" if command in _CONTINUES else ""
    print(f"interrupted{hint}", file=sys.stderr)


def _unchanged(arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return the stored output and exit code of ``analyze DATASET STUDY [--json]`` if nothing changed, else None."""
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
