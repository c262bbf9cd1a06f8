"""The group `pool`: import, presets, inspect, search, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from al.commands import export as exporting
from al.commands import inspect_pool as pool_inspection
from al.commands import pool
from al.commands.command_line import common, emit, map_option
from al.pool import presets
from al.report.text.pool import describe_inspection
from al.run.progress import stop_on_signals


@click.group("pool")
def pool_group() -> None:
    """Import, inspect, search and export data."""


@pool_group.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", "format_name", default=None, help="Row format by name, instead of detection for each row.")
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of quarantining it.")
@common
@map_option
def pool_import(options: Any, sources: tuple[str, ...], format_name: str | None, strict: bool) -> None:
    """Add files, folders, globs, presets or hub:OWNER/NAME[config]:split to the run's pool as a new version."""
    stop_on_signals()
    document = pool.import_into_pool(options, sources, format_name, strict)
    emit(options, document, pool.describe_pool)


@pool_group.command("presets")
@common
def pool_presets(options: Any) -> None:
    """List the published sets that can be loaded by name, with location, licence and authors."""
    emit(options, presets.list_presets(), presets.describe_presets)


@pool_group.command("inspect")
@click.argument("sources", nargs=-1)
@click.option(
    "--examples", "shown", type=click.IntRange(min=0), default=3, show_default=True, help="Examples to render."
)
@click.option("--format", "format_name", default=None, help="As for `pool import`; only with SOURCES.")
@click.option(
    "--html",
    "page",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[PAGE.html]",
    help="Also write an HTML page.  [default: RUN/pool.html, or ./pool.html with SOURCES and where RUN is read-only]",
)
@common
@map_option
def pool_inspect(
    options: Any,
    sources: tuple[str, ...],
    shown: int,
    format_name: str | None,
    page: str | None,
) -> None:
    """Show the run's newest pool version, or SOURCES without importing them: formats, languages, lengths, quarantine, examples."""

    document = pool_inspection.inspect(options, sources, format_name, shown, page)
    emit(options, document, describe_inspection)


@pool_group.command("search")
@click.argument("text")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Examples to show.")
@common
def pool_search(options: Any, text: str, limit: int) -> None:
    """Find examples of the run's whole pool by a TEXT that a message contains, with what the last round made of each."""
    emit(options, pool.search_pool(options, text, limit), pool.describe_search)


@pool_group.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["pool", "dev", "test"]), default=None, help="Only this side of the split.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@common
def pool_export(options: Any, out: Path, split: str | None, force: bool) -> None:
    """Write the run's newest pool version to OUT (.jsonl, .jsonl.gz, .jsonl.zst or .parquet) as messages with id, source,
    other accepted answers and metadata. Importing OUT again gives the same pool."""
    emit(options, exporting.export_pool(options, out, split, force), exporting.describe_export)
