"""The command group: finds each command in the file of its name, so that `--help` loads nothing heavy."""

import signal
import sys
from importlib import import_module

import click

from wsi_pipeline import __version__
from wsi_pipeline.disk import is_full
from wsi_pipeline.errors import ConfigError, WsiError

COMMANDS = (
    "run", "check", "tile", "score", "map", "train", "evaluate", "explain", "export", "demo", "doctor", "config",
)  # fmt: skip
EXIT_FATAL, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130


class Commands(click.Group):
    """Commands in the order of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"wsi_pipeline.cli.{cmd_name}").command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="wsi_pipeline %(version)s. Research use only: not a medical device.")
def group() -> None:
    """Whole slides to maps of cancer extent. Research use only.

    \b
    Exit codes: 0 all done; 1 fatal, or no slide done; 2 usage or configuration;
    3 some slides failed; 130 interrupted (go on with --resume).
    """


def main() -> int:
    """Run a command; every error raised on purpose is one line and an exit code.

    SIGTERM, and SIGUSR1 as SLURM can send it before a pre-emption, end a command as Ctrl-C does.
    """
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        return int(group.main(standalone_mode=False, prog_name="python -m wsi_pipeline") or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE
    except WsiError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_FATAL
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what is done is kept, go on with --resume", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FATAL
    except OSError as error:
        if not is_full(error):
            if error.filename is None:
                raise
            click.echo(f"error: {error.filename}: {error.strerror}", err=True)
            return EXIT_FATAL
        click.echo(f"error: disk full ({error}); free some, then go on with --resume", err=True)
        return EXIT_FATAL


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
