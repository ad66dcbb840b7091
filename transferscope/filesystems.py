"""What is behind an address: its file system, opened by fsspec, and errors without secrets in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transferscope.errors import StudyError, suggest

# A drive such as C: is one letter.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# What each scheme needs beside this package, None for nothing; fsspec may know others.
PACKAGES: dict[str, str | None] = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": None,
    "az": "adlfs",
    "abfs": "adlfs",
    "sftp": "paramiko",
    "file": None,
    "memory": None,
}
EXTRA = ("s3fs", "gcsfs")  # what the extra `remote` brings
# One request writes a whole object, which nobody sees before it is there.
WHOLE = frozenset({"s3", "gs", "gcs", "hf", "az", "abfs", "memory"})
# Where listings are kept, another process's objects would never be seen.
_NO_LISTINGS = frozenset({"s3", "gs", "gcs", "az", "abfs"})
_SECRETS = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL|ACCOUNT_KEY|CONNECTION_STRING", re.I)
_HINTS = {
    "s3": "credentials and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL or "
    "~/.aws, as s3fs takes them",
    "gs": "credentials come from GOOGLE_APPLICATION_CREDENTIALS or gcloud, as gcsfs takes them",
    "hf": "writing needs HF_TOKEN (or `hf auth login`) with permission to write; without, it can be read",
}


def require(scheme: str) -> None:
    """Raises StudyError for a scheme that nothing here opens: unknown, or its package is not installed."""
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise StudyError(f"no kind of address {scheme + '://'!r}. {suggest(scheme, PACKAGES)}") from None
    except ImportError:
        package = PACKAGES.get(scheme)
        what = f"the package {package}" if package else "a package"
        how = "pip install 'transferscope[remote]'" if package in EXTRA or not package else ""
        how = " or ".join(filter(None, (how, f"pip install {package}" if package else "")))
        raise StudyError(f"{scheme}:// needs {what}, which is not installed: {how}") from None


def open_filesystem(scheme: str, root: str) -> Any:
    """The file system of ``scheme://root``, of which fsspec keeps one, set up from the environment.

    It keeps no listings: others write, too. Raises StudyError.
    """
    from fsspec.core import url_to_fs

    require(scheme)
    options = {"use_listings_cache": False} if scheme in _NO_LISTINGS else {}
    with telling(f"{scheme}://{root}", "open"):
        return url_to_fs(f"{scheme}://{root}", **options)[0]


def renames(filesystem: Any) -> bool:
    """Whether moving a file is a rename of its own, and no copy that is seen while it grows."""
    from fsspec import AbstractFileSystem

    return type(filesystem).mv is not AbstractFileSystem.mv


@contextmanager
def telling(address: str, what: str) -> Iterator[None]:
    """What fails inside becomes a StudyError of one line; FileNotFoundError and IsADirectoryError pass."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, StudyError):
        raise
    except Exception as error:  # each library of a scheme has exceptions of its own
        if _missing(error):
            raise FileNotFoundError(address) from error
        scheme = address.partition("://")[0]
        hint = _HINTS.get({"gcs": "gs"}.get(scheme, scheme), "")
        text = without_secrets(next(iter(str(error).strip().splitlines()), "") or type(error).__name__)
        line = f"cannot {what} {address}: {text}" + (f" ({hint})" if hint else "")
        raise StudyError(line) from None


def _missing(error: Exception) -> bool:
    """A repository or revision of the hub that is not there has an exception of its own."""
    return type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError")


def without_secrets(text: str) -> str:
    """The text without queries of addresses, which may be signed, and what the environment holds secret."""
    text = re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1?...", text)
    for name, value in os.environ.items():
        if _SECRETS.search(name) and len(value) >= 4:
            text = text.replace(value, "***")
    return text
