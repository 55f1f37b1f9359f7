"""What `score` and `map` share: a run folder's own slides and knobs, taken as far as a stage."""

from typing import Any

from wsi_pipeline.cli import options
from wsi_pipeline.cli.job import work
from wsi_pipeline.cli.model import load
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.forks import begin_workers
from wsi_pipeline.pipeline.remote_folder import account_of, open_run
from wsi_pipeline.pipeline.work import Stage
from wsi_pipeline.slide.cache import use_cache
from wsi_pipeline.slide.entry import SlideEntry


def go_on(run_folder: str, until: Stage, config_file: str | None, overrides: tuple[str, ...], **given: Any) -> int:
    """Take the slides of an existing run as far as `until`, with its own knobs but for those given now."""
    account = account_of(run_folder)
    if not account:
        raise ConfigError(f"{run_folder}: no run folder (no run.json); make one with `tile` or `run`")
    if not {"config", "slides"} <= account.keys():
        raise ConfigError(f"{run_folder}: the run ended before it began; give `run` or `tile` its slides and --resume")
    config = options.resolve(config_file, overrides, own=account["config"], **given)
    begin_workers(config.run.scheduler)
    use_cache(config.run.cache_dir, config.run.cache_gb)
    folder = open_run(run_folder, resume=True)
    entries = [SlideEntry(**entry | {"mpp": entry["mpp"] and tuple(entry["mpp"])}) for entry in account["slides"]]
    classifier, about = load(config)
    key = str(account.get("pseudonyms", ""))
    return work(entries, folder, config, classifier=classifier, model=about, until=until, pseudonyms=key)
