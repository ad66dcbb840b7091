"""The command line: a click group whose commands are the files of this folder, imported when called.

A command is a file whose docstring begins with `transferscope VERB: what it does` and that defines `command`.
Adding one needs no edit here.
"""

from __future__ import annotations

import importlib
import re
import traceback
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from transferscope import __version__
from transferscope.errors import InputError, TransferscopeError, suggest

_HEADLINE = re.compile(r'"""transferscope ([a-z-]+): (.+?)\.?(?:"""|\n)')


class Failure(click.ClickException):
    """An error that the user sees as one line on stderr, and the exit status."""

    def __init__(self, message: str, status: int, prefix: str = "Error: ") -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click types it as a class variable and reads the instance's
        self.prefix = prefix

    def show(self, file: Any = None) -> None:
        click.echo(f"{self.prefix}{self.message}", err=True)


class LazyGroup(click.Group):
    """Knows its commands by the first lines of their files, and imports a file when it is called."""

    @cached_property
    def headlines(self) -> dict[str, tuple[str, str]]:
        """verb -> (module, one line of help), in alphabetical order."""
        found = {}
        for path in sorted(Path(__file__).parent.glob("*.py")):
            with path.open(encoding="utf-8") as file:
                match = _HEADLINE.match(file.readline())
            if match:
                found[match[1]] = (path.stem, match[2])
        return dict(sorted(found.items()))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.headlines]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.headlines:
            return None
        module = importlib.import_module(f"{__name__}.{self.headlines[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.headlines:
            raise click.UsageError(f"no command {args[0]!r}. {suggest(args[0], self.headlines)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in self.headlines.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise Failure(_with_traceback(ctx, error, str(error)), 2) from error
        except TransferscopeError as error:
            raise Failure(_with_traceback(ctx, error, str(error)), 1) from error
        except KeyboardInterrupt:
            raise Failure("interrupted; run the same command again to go on", 130, prefix="") from None
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            line = f"{type(error).__name__}: {error}".strip()
            hint = "" if ctx.params.get("verbose") else " (transferscope --verbose COMMAND ... shows where)"
            raise Failure(_with_traceback(ctx, error, f"unexpected {line}{hint}"), 1) from error


def _with_traceback(ctx: click.Context, error: BaseException, message: str) -> str:
    if not ctx.params.get("verbose"):
        return message
    return message + "\n" + "".join(traceback.format_exception(error)).rstrip()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="transferscope")
@click.option("-v", "--verbose", is_flag=True, help="More messages, and the traceback of an error.")
@click.option("--quiet", is_flag=True, help="No progress and no messages; errors and the result only.")
@click.pass_context
def main(ctx: click.Context, verbose: bool, quiet: bool) -> None:
    """Which source task should I start from?

    Tune or read soft prompts on a frozen transformer, compare what they do inside it, and rank the source
    tasks for a target. Results go to stdout, progress and messages to stderr.

    \b
    transferscope demo                            the whole job on a tiny model, offline
    transferscope rank TARGET --study DIR         sources for a target, best first
    transferscope rank PROMPT --prompts DIR       the same for PEFT folders, with no data
    """
    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet exclude each other", ctx)
