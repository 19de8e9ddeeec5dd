"""The console script `taskrl`."""

import errno
import functools
import signal
import sys
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

import taskrl
from agents.commands.encoders import distill, embed, finetune, probe, quality
from agents.commands.page import ui
from agents.commands.results import doctor, export, inspect, mlflow
from agents.commands.runs import compare, pretrain, resume, train
from agents.doctor import pair_problem
from taskrl.errors import ConfigError, TaskrlError
from taskrl.machine import versions

F = TypeVar("F", bound=Callable[..., Any])
COMMANDS = (
    *(train, pretrain, compare, resume, embed, probe, quality, finetune, distill),
    *(inspect, export, ui, mlflow, doctor),
)
# what the machine refuses, wherever it happens, and the remedy
MEND = "make room or mend the rights there. What is finished is kept."
REFUSALS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM), MEND)
REFUSALS[errno.ENAMETOOLONG] = "give a shorter name."
EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143
# of click, which newer typers bring along under another name
UsageError: Any = typer.BadParameter.__mro__[1]


def friendly(command: F) -> F:
    """User errors become one sentence and exit code 2; Ctrl-C says so and exits with 130, SIGTERM with 143.

    A command that can go on raises KeyboardInterrupt anew, with a sentence that says how.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        terminated = False

        def on_sigterm(number: int, frame: Any) -> None:
            nonlocal terminated
            terminated = True
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGTERM, on_sigterm)
        try:
            check_names(kwargs)
            return command(*args, **kwargs)
        except TaskrlError as error:
            typer.echo(f"Error: {' '.join(str(error).splitlines())}", err=True)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            where = f" ({error.filename})" if error.filename else ""
            typer.echo(f"Error: {error.strerror}{where}; {REFUSALS[error.errno]}", err=True)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt as interrupt:
            typer.echo(" ".join(["Stopped.", *map(str, interrupt.args)]), err=True)
            raise typer.Exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED) from None
        except Exception:
            if not terminated:
                raise
            typer.echo("Stopped.", err=True)  # a library that was being imported made another exception of it
            raise typer.Exit(EXIT_TERMINATED) from None
        finally:
            signal.signal(signal.SIGTERM, previous)

    return wrapped  # type: ignore[return-value]


def check_names(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for a path or text that is not UTF-8: a file may be called so, but few libraries can read it,
    and no terminal can show it.
    """
    for value in given.values():
        for each in value if isinstance(value, list | tuple) else [value]:
            try:
                str(each).encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{str(each)!r} is no name in UTF-8; rename it first.") from None


class OneSentence(TyperGroup):
    """Options that cannot be read are errors like others: one sentence, exit code 2."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's; errors of usage are told here."""
        standalone = extra.pop("standalone_mode", True)
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})
        except UsageError as error:
            told = " ".join(error.format_message().split()).rstrip(".")
            if told:  # else the help was shown, because nothing was asked for
                path = error.ctx.command_path if error.ctx else "taskrl"
                typer.echo(f"Error: {told}; see {path} --help.", err=True)
            code = EXIT_BAD_INPUT
        if standalone:
            sys.exit(code)
        return code


app = typer.Typer(
    cls=OneSentence,
    help="Learn which self-supervised pretext task an encoder should train on next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(taskrl.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for _command in COMMANDS:
    app.command()(friendly(_command))


def main() -> None:
    """Entry point: checks the torch/torchvision pair first, since a wrong pair fails in strange ways later."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    found = versions()
    problem = pair_problem(found["torch"], found["torchvision"])
    if problem and "doctor" not in sys.argv:
        typer.echo(f"Warning: {problem}", err=True)
    app()


if __name__ == "__main__":
    main()
