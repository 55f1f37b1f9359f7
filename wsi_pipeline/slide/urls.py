"""A URL such as s3://bucket/a.svs -> its file system and its path there, by fsspec; what goes wrong, in our words.

Who one is stands in the environment or the files of the library that reads the protocol, never in a URL: URLs are
written into run folders.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from wsi_pipeline.disk import is_full
from wsi_pipeline.errors import ConfigError, SlideError, WsiError
from wsi_pipeline.slide.files import reason

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HERE = re.compile(r"(?:file|local)://")
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")
_ABSENT, _REFUSED = (404, 410), (401, 403)  # answers of http
_FOREIGN = {"botocore.exceptions": "BotoCoreError", "aiohttp": "ClientError"}  # no OSErrors, though of files

FileSystem = Any  # fsspec.AbstractFileSystem, which has no types


def is_url(path: object) -> bool:
    """Whether a path is a URL; `plain` makes those of this machine's own files paths again."""
    return bool(_URL.match(str(path)))


def plain(path: str) -> str:
    """The path of a file:// URL; all else as it is."""
    return str(fsspec.get_filesystem_class("file")._strip_protocol(path)) if _HERE.match(path) else path


def remote(url: str) -> tuple[FileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises ConfigError where no library for it is there, where it names nothing, or where the URL holds a secret.
    """
    if "::" in url:
        raise ConfigError(f"{url}: chained URLs are not read; give that of the file itself")
    if urlsplit(url).password or ("?" in url and url.startswith("http")):
        shown = url.split("://")[0]
        raise ConfigError(f"a {shown}:// URL with credentials in it: they would be written down; leave them out")
    try:
        found, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: cannot be used ({error}); s3:// needs `pip install wsi-pipeline[s3]`") from error
    if not path.strip("/"):
        raise ConfigError(f"{url}: names no bucket and no file (a variable that is not set?); give the whole URL")
    return found, path


def stamp(info: dict[str, Any]) -> list[str]:
    """What tells one version of a remote file from another: its size, and its hash or time."""
    return [str(info.get("size")), next((str(info[name]) for name in _STAMPS if info.get(name)), "")]


@contextmanager
def reaching(url: str, kind: type[WsiError] = SlideError) -> Iterator[None]:
    """Turn what a file system raises in the block into a `kind` that names the URL and what to do."""
    try:
        yield
    except WsiError:
        raise
    except broken() as error:
        raise kind(f"{url}: {told(error)}") from error


def broken() -> tuple[type[Exception], ...]:
    """What file systems raise. Asked when something was raised: a library that raised it is loaded by then."""
    loaded = [(sys.modules.get(module), name) for module, name in _FOREIGN.items()]
    return (OSError, *(getattr(module, name) for module, name in loaded if module))


def is_absent(error: BaseException | None) -> bool:
    """Whether a file system found that there is no such file; http says so of a server that it cannot reach, too."""
    if _status(error) in _ABSENT:
        return True
    return isinstance(error, FileNotFoundError) and (error.__cause__ is None or is_absent(error.__cause__))


def told(error: Exception) -> str:
    """Why a remote file was not to be had, and what to do."""
    if is_absent(error):
        return "no such file; check the URL"
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return told(error.__cause__)  # of http, what it found instead
    if isinstance(error, OSError) and is_full(error):
        return "the disk here is full; free some"
    if isinstance(error, PermissionError) or _status(error) in _REFUSED:
        return f"access refused ({reason(error, Path())}); see to your credentials"
    return f"cannot be reached ({reason(error, Path())}); check the URL, network and credentials"


def _status(error: BaseException | None) -> int | None:
    """What a server of http answered, where that is the error."""
    return getattr(error, "status", None)
