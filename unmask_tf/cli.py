"""The command line: one command per stage, with the names of the make targets. Nothing heavy is imported for --help."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import click

from unmask_tf import __version__, cli_data, cli_experiments, cli_fetch, cli_release, cli_report
from unmask_tf.errors import InputError
from unmask_tf.inspection import command as inspection
from unmask_tf.memory import keep_freed_memory
from unmask_tf.progress import NO_GPU


class _Commands(click.Group):
    """A group whose help tells each command's first sentence in full."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [(name, self.commands[name]) for name in self.list_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(200)) for name, one in shown if not one.hidden])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unmask_tf")
def cli() -> None:
    """UnMask: detect and undo adversarial attacks by the parts an image shows.

    Begin with `demo`, or with `inspect photo.jpg` for your own photograph; both work offline. Results go to the folder
    results/, below the checkout or the present folder. COMMAND --help tells a command's options.
    """


for _module in (inspection, cli_data, cli_fetch, cli_experiments, cli_report, cli_release):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def _called() -> str:
    """How the user calls this program: the installed command, or the module."""
    return "unmask" if Path(sys.argv[0]).stem == "unmask" else "python -m unmask_tf"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: the command's own, 2 for input a user can fix, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_freed_memory()
    warnings.filterwarnings("ignore", NO_GPU)
    try:
        return cli.main(args=arguments, prog_name=_called(), standalone_mode=False) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
