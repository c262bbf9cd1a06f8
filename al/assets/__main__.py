"""`python -m al.assets`: download and build the demo assets; fast if they exist."""

from __future__ import annotations

import sys

from al.assets import make_assets
from al.cache import cache_dir
from al.errors import UserError


def main() -> int:
    """Make the assets in the cache directory; returns the exit code."""
    try:
        make_assets(cache_dir(), say=lambda line: print(line, flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; finished assets are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
