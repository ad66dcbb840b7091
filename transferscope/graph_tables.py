"""The task graph and a choice of sources as tables, JSON and the graph formats: what the commands print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import networkx as nx

from transferscope import graph_formats
from transferscope.choosing import ChoiceReport
from transferscope.errors import InputError
from transferscope.exporters import Table, exporter, json_text, tabular
from transferscope.facility import Choice
from transferscope.graph import TaskGraph
from transferscope.graph_analysis import (
    Asymmetry,
    Clusters,
    Communities,
    Role,
    asymmetry,
    clusters,
    communities,
    roles,
    with_communities,
)

SHOWN_EDGES = 30  # in the table for people; all formats for programs have all


@dataclass(frozen=True)
class GraphReport:
    """One view of the graph for each measure shown, and what the first of them says.

    `communities` None: not asked for; `clusters` None: not every pair has an edge.
    """

    graphs: tuple[TaskGraph, ...]
    roles: tuple[Role, ...]
    asymmetry: Asymmetry
    communities: Communities | None
    clusters: Clusters | None

    def network(self) -> nx.MultiDiGraph:
        """All views as one networkx graph: an edge for each measure shown, whose name is its key."""
        return nx.compose_all([graph.network() for graph in self.graphs])


def view(
    graph: TaskGraph,
    *,
    threshold: float | None = None,
    backbone: float | None = None,
    nearest: int | None = None,
    mutual: bool = False,
    tree: str | None = None,
) -> TaskGraph:
    """The edges that are left after each of these, in this order. `tree`: "directed" or "undirected"."""
    if mutual and nearest is None:
        raise InputError("mutual is said of the nearest sources: say how many")
    if threshold is not None:
        graph = graph.threshold(threshold)
    if backbone is not None:
        graph = graph.backbone(backbone)
    if nearest is not None:
        graph = graph.nearest(nearest, mutual=mutual)
    if tree is not None:
        graph = graph.arborescence() if tree == "directed" else graph.tree()
    return graph


def report(graphs: Sequence[TaskGraph], *, with_groups: bool = False, seed: int = 0) -> GraphReport:
    """What there is to say of the first view; `with_groups`: its communities, too, also on all nodes."""
    if not graphs:
        raise InputError("no graph to report on")
    first = graphs[0]
    try:
        tree = clusters(first)
    except InputError:
        tree = None  # a view of some edges: clusters need all
    found = communities(first, seed=seed) if with_groups else None
    named = [with_communities(graph, found) for graph in graphs] if found else graphs
    return GraphReport(tuple(named), roles(first), asymmetry(first), found, tree)


def _graph_tables(record: GraphReport) -> list[Table]:
    first = record.graphs[0]
    columns = ("task", "type", "community", "own", "gives", "first for", "gets", "from", "needs")
    rows = []
    for role in record.roles:
        node = first.nodes[role.task]
        seen = (role.gives, role.first_for, role.gets, role.best, role.needs)
        rows.append((role.task, node.type, node.community, node.own, *seen))
    unused = {i for i, name in enumerate(columns) if name != "task" and all(row[i] is None for row in rows)}
    kept = [i for i in range(len(columns)) if i not in unused]
    edges = _edges(record)
    more = len(edges.rows) - SHOWN_EDGES
    notes = (f"{more} more edges are not in this table; the other formats have all",) if more > 0 else ()
    return [
        Table(
            tuple(columns[i] for i in kept),
            tuple(tuple(row[i] for i in kept) for row in rows),
            f"{len(first.tasks)} tasks by {first.shown}, best sources first",
            tuple(_notes(record)),
        ),
        Table(edges.columns, edges.rows[:SHOWN_EDGES], edges.title, notes),
    ]


def _edges(record: GraphReport) -> Table:
    rows = [(s, t, graph.shown, value) for graph in record.graphs for s, t, value in graph.edges]
    return Table(("source", "target", "measure", "value"), tuple(rows), f"{len(rows)} edges")


def _notes(record: GraphReport) -> list[str]:
    first = record.graphs[0]
    notes = [f"shown: {', then '.join(graph.said)}" for graph in record.graphs if graph.said]
    words = "gives: its value less the target's mean, over targets; gets: its best source's value"
    measured = any(role.needs is not None for role in record.roles)
    notes.append(f"{words}; needs: what its own prompt reaches beyond that" if measured else words)
    found = record.asymmetry
    if found.share is not None and found.spearman is not None:
        notes.append(
            f"asymmetry over {found.pairs} pairs: {found.share:.0%} of the variation of {first.shown} "
            f"depends on the direction alone; Spearman of the two directions {found.spearman:.2f}"
        )
    if record.clusters is not None and record.clusters.cophenetic is not None:
        notes.append(f"average-linkage clusters: cophenetic correlation {record.clusters.cophenetic:.2f}")
    return [*notes, *_about_communities(record.communities)]


def _about_communities(found: Communities | None) -> list[str]:
    if found is None:
        return []
    names = "; ".join(", ".join(group) for group in found.groups)
    notes = [f"{len(found.groups)} communities (Louvain, modularity {found.modularity:.3f}): {names}"]
    notes += [found.note] if found.note else []
    if (agree := found.agreement) is not None:
        notes.append(
            f"agreement with the types of {agree.tasks} tasks: adjusted Rand {agree.rand:.3f} "
            f"(p {agree.p_rand:.3f}), NMI {agree.information:.3f} (p {agree.p_information:.3f}; "
            f"{agree.permutations} permutations)"
        )
    return notes


tabular(GraphReport, _graph_tables, _edges)


@exporter(GraphReport, "json")
def reportjson_text(record: GraphReport) -> str:
    """Nodes, the edges of each view with all that is known of them, and what was found."""
    network = record.network()
    nodes = [{"task": node, **data} for node, data in network.nodes(data=True)]
    edges = [{"source": s, "target": t, **data} for s, t, data in network.edges(data=True)]
    tree = record.clusters
    return json_text(
        {
            "shown": [graph.shown for graph in record.graphs],
            "measures": dict(record.graphs[0].kinds),
            "views": [list(graph.said) for graph in record.graphs],
            "nodes": nodes,
            "edges": edges,
            "roles": [asdict(role) for role in record.roles],
            "asymmetry": asdict(record.asymmetry),
            "communities": asdict(record.communities) if record.communities else None,
            "clusters": asdict(tree) if tree else None,
        }
    )


def _exported(format_: str) -> Callable[[GraphReport], str]:
    return lambda record: graph_formats.write(record.network(), format_)


for _format in graph_formats.WRITERS:
    exporter(GraphReport, _format)(_exported(_format))


def _choice_tables(record: ChoiceReport) -> list[Table]:
    choice = record.choice
    served = {source: [t for t, by in choice.serves.items() if by == source] for source in choice.sources}
    rows = tuple((s, len(served[s]), ", ".join(served[s])) for s in choice.sources)
    share = "" if choice.share is None else f", {choice.share:.1%} of the best achievable {choice.best:.4f}"
    curve = tuple(
        (one.k, ", ".join(one.sources), one.mean, one.share, one.bound, one.cost, one.method)
        for one in record.curve
    )
    tables = [
        Table(
            ("source", "serves", "targets"),
            rows,
            f"{len(choice.sources)} sources by {record.measure}: mean over targets {choice.mean:.4f}{share}",
            record.notes,
        ),
        _served(record),
    ]
    names = ("sources", "chosen", "mean", "share of best", "at most", "cost", "method")
    return [*tables, Table(names, curve, "The curve")] if len(record.curve) > 1 else tables


def _served(record: ChoiceReport) -> Table:
    choice: Choice = record.choice
    rows = tuple((target, source, choice.values[target]) for target, source in choice.serves.items())
    return Table(("target", "source", "value"), rows, "Which source serves which target")


tabular(ChoiceReport, _choice_tables, _served)
