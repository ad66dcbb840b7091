"""transferscope graph: the tasks as a graph, for people and for Gephi, Cytoscape, graphviz and networkx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import emit, open_study, plot_option, read_indicators, read_types, study_option

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)
FORMATS = ["table", "json", "graphml", "gexf", "node-link", "dot", "cytoscape", "edges", "adjacency"]
KIND = click.Choice(FORMATS)


@click.command("graph")
@study_option(required=False)
@click.option("--indicators", type=FILE, help="CSV file indicator,source,target,value instead.")
@click.option("--transfer", type=FILE, help="CSV file protocol,source,target,seed,metric,value instead.")
@click.option("--types", type=FILE, help="CSV file task,type, of the tasks in these files.")
@click.option("--indicator", "names", multiple=True, help="Show this one (can be repeated).")
@click.option("--measured", metavar="PROTOCOL", help='Show measured transfer; also "PROTOCOL relative".')
@click.option("--threshold", type=float, help="Edges of at least this value.")
@click.option("--nearest", type=int, metavar="K", help="For each target its K best sources.")
@click.option("--mutual", is_flag=True, help="With --nearest: where that is so both ways.")
@click.option(
    "--tree",
    type=click.Choice(["directed", "undirected"]),
    is_flag=False,
    flag_value="directed",
    help="The maximum spanning arborescence, or the undirected tree.",
)
@click.option("--backbone", type=float, metavar="ALPHA", help="The disparity filter at this level.")
@click.option("--communities", is_flag=True, help="Louvain communities, and whether they agree with types.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of communities and permutations.")
@click.option("--format", "format_", type=KIND, default="table", show_default=True, help="Of the result.")
@click.option("--output", type=OUTPUT, help="Write there instead.")
@plot_option
def command(
    study: Path | None,
    indicators: Path | None,
    transfer: Path | None,
    types: Path | None,
    names: tuple[str, ...],
    measured: str | None,
    communities: bool,
    seed: int,
    format_: str,
    output: Path | None,
    **views: Any,
) -> None:
    """The tasks of a study, or of tables, as a directed graph.

    An edge carries every indicator and measured value that is known of its pair; its weight is the one that
    is shown: measured transfer where there is any, else the first indicator.

    \b
    transferscope graph --study my-study --nearest 2 --communities
    transferscope graph --study my-study --indicator on --backbone 0.2 --format gexf --output on.gexf
    transferscope graph --indicators indicators.csv --tree --format dot | dot -Tsvg > tree.svg
    """
    from transferscope import graph, graph_tables

    if (study is not None) == (indicators is not None or transfer is not None):
        raise click.UsageError("give --study DIR, or --indicators FILE, --transfer FILE or both")
    if study is not None:
        whole = graph.of_study(open_study(study), names, measured)
    else:
        matrices = read_indicators(indicators) if indicators else []
        whole = graph.build(matrices, _transfers(transfer), types=read_types(types))
    shown = [*names, *([measured] if measured else [])] or [whole.shown]
    chosen = [graph_tables.view(whole.show(name), **views) for name in dict.fromkeys(shown)]
    emit(graph_tables.report(chosen, with_groups=communities, seed=seed), format_, output)


def _transfers(path: Path | None) -> Any:
    from transferscope import store, transfer

    if path is None:
        return []
    return transfer.from_rows(store.read_csv(path, transfer.COLUMNS, numbers={"seed", "value"}))
