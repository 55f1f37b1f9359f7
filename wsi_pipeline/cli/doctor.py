"""`doctor`: what this machine has, and whether it is enough."""

import click


@click.command("doctor")
def command() -> int:
    """Tell versions, processors, memory, disk and accelerators, and try OpenSlide, Zarr and GDAL once."""
    import os
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    from wsi_pipeline import __version__
    from wsi_pipeline.cli.trial import trials

    click.echo(
        f"wsi_pipeline {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    for name in ("openslide-bin", "openslide-python", "tifffile", "zarr", "dask", "rasterio", "torch", "torchvision"):
        try:
            click.echo(f"  {name:18} {version(name)}")
        except PackageNotFoundError:
            click.echo(f"  {name:18} no package of Python")
    memory, free = psutil.virtual_memory().available, shutil.disk_usage(".").free
    click.echo(
        f"  processors         {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    )
    click.echo(f"  memory available   {memory / 2**30:.1f} GiB")
    click.echo(f"  disk free here     {free / 2**30:.1f} GiB")
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    click.echo(f"  accelerators       {', '.join(gpus) or 'none; scoring runs on the processor'}")
    failed = 0
    for name, problem in trials():
        click.echo(f"  {name:18} {'works' if not problem else 'FAILS: ' + problem}")
        failed += bool(problem)
    return 1 if failed else 0
