"""`config`: every knob with its value, unit and meaning, as a YAML file to start from."""

import click

from wsi_pipeline.cli import options


@click.command("config")
@options.config_options
def command(config_file: str | None, overrides: tuple[str, ...]) -> int:
    """Print the resolved configuration as YAML; redirect it to a file and edit it."""
    from wsi_pipeline.knobs import as_yaml

    click.echo(as_yaml(options.resolve(config_file, overrides)), nl=False)
    return 0
