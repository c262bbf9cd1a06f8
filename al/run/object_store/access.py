"""How a store is reached: through fsspec, with further attempts, and with errors of one line."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

from al.errors import ConfigError, EnvironmentProblem, UserError
from al.excerpt import cut

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt, on top of those that the package for a kind of store makes itself."""
NO_MORE = (FileNotFoundError, PermissionError, NotImplementedError)
"""Errors that another attempt would meet again."""
OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
LONGEST_REASON = 300
"""Characters of what a package says of an error."""


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path of the URL on it. Listings are not cached, because other processes write there.

    Raises:
        ConfigError: fsspec knows no such URLs. EnvironmentProblem: the package for them is not installed, or refuses this one.
    """
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0] if "://" in url else "file"
    options = {"auto_mkdir": True} if protocol == "file" else {}
    try:
        return url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        package = f": pip install {PACKAGES[protocol]}" if protocol in PACKAGES else ""
        raise EnvironmentProblem(f"artifacts: {url} needs a package that is not installed ({error}){package}") from None
    except ValueError as error:
        raise ConfigError(
            f"artifacts: {url}: expected a URL such as s3://bucket/folder or file:///folder ({error})."
        ) from None
    except Exception as error:
        raise EnvironmentProblem(f"artifacts: {url}: cannot be opened ({_reason(error)}).") from error


def contact(url: str) -> None:
    """Raise EnvironmentProblem or ConfigError if the store of a URL does not answer these credentials."""
    files, root = file_system(url)
    attempt("list", url, lambda: files.exists(root))


def is_local(files: AbstractFileSystem) -> bool:
    """Whether a file system is that of this machine, mounted ones included."""
    return "file" in files.protocol


def attempt(what: Literal["read", "write", "list", "delete"], url: str, do: Callable[[], T]) -> T:
    """What `do` returns. If it fails it is done again, len(WAITS) times.

    Raises:
        FileNotFoundError: as `do`, except in writing, where it means that there is no such bucket.
        OSError: the disk of this machine, which is read to, is full or read-only.
        EnvironmentProblem: it failed each time.
    """
    for wait in (*WAITS, None):
        try:
            return do()
        except UserError:
            raise
        except Exception as error:
            if what != "write" and isinstance(error, FileNotFoundError):
                raise
            if what == "read" and isinstance(error, OSError) and error.errno in OF_THIS_DISK:
                raise
            if wait is None or isinstance(error, NO_MORE):
                raise EnvironmentProblem(
                    f"{url}: cannot {what} this: {_reason(error)}. Nothing published was lost. Check the address, the "
                    f"credentials that the package for such URLs reads, and the network; then run the same command again."
                ) from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception) -> str:
    return cut(f"{type(error).__name__} {' '.join(str(error).split())}", LONGEST_REASON)
