"""A task graph as a file and back: GraphML, GEXF, node-link and Cytoscape JSON, DOT, CSV of edges or matrix.

One pair of functions for each format, from a networkx MultiDiGraph to text and back. What a value may be, the
same in all of them: what is unknown (None, NaN) is left out, so that absent means unknown; an infinite number
is refused; a list, where a format has no lists, is JSON text in an attribute "NAME (json)" which the readers
undo. Names may be any text, but XML has no control characters: there they are refused.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import networkx as nx
import numpy as np

from transferscope.errors import InputError, suggest
from transferscope.exporters import json_text

GRAPHML, GEXF, NODE_LINK, DOT = "graphml", "gexf", "node-link", "dot"
CYTOSCAPE, EDGES, ADJACENCY = "cytoscape", "edges", "adjacency"
AS_JSON = " (json)"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(network: nx.MultiDiGraph, format_: str) -> str:
    """The graph in one of the formats. InputError: an unknown format, or a value that it cannot hold."""
    if format_ not in WRITERS:
        raise InputError(f"no graph format {format_!r}. {suggest(format_, WRITERS)}")
    return WRITERS[format_](network)


def read(text: str, format_: str) -> nx.MultiDiGraph:
    """The graph that `write`, or another program, wrote. InputError: no format to read, or broken text."""
    if format_ not in READERS:
        raise InputError(f"graphs are not read from {format_!r}. {suggest(format_, READERS)}")
    try:
        return READERS[format_](text)
    except InputError:
        raise
    except (nx.NetworkXException, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise InputError(f"this is no {format_} graph: {type(error).__name__}: {error}") from error


def known(attributes: Mapping[str, Any], *, lists: bool) -> dict[str, Any]:
    """The attributes that are known, as plain Python values; lists as JSON text unless `lists`."""
    found = {}
    for name, value in attributes.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"the attribute {name!r} is {value}, which graph files cannot hold")
        if isinstance(value, list | tuple | dict | set):
            whole = sorted(value) if isinstance(value, set) else value
            plain = json.loads(json_text(whole))  # NaN within is null
            if lists:
                found[str(name)] = plain
            else:
                found[f"{name}{AS_JSON}"] = json.dumps(plain, ensure_ascii=False)
        else:
            found[str(name)] = value
    return found


def _undone(attributes: Mapping[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    return {
        name.removesuffix(AS_JSON): json.loads(value) if name.endswith(AS_JSON) else value
        for name, value in attributes.items()
        if name not in without
    }


def _plain(network: nx.MultiDiGraph, *, xml: bool = False) -> nx.MultiDiGraph:
    """The same graph with file-ready attributes, whose edges have keys e0, e1, ... and the old one as `key`.

    Files number their edges: an id must not occur twice, and every edge of ours has the same key.
    """
    found = nx.MultiDiGraph()
    for node, data in network.nodes(data=True):
        found.add_node(str(node), **known(data, lists=False))
    for i, (source, target, key, data) in enumerate(network.edges(keys=True, data=True)):
        found.add_edge(str(source), str(target), key=f"e{i}")
        found.edges[str(source), str(target), f"e{i}"].update(known(data, lists=False), key=str(key))
    if xml:
        _check_xml(found)
    return found


def _check_xml(network: nx.MultiDiGraph) -> None:
    parts = [*network.nodes(data=True), *((s, {t: "", **data}) for s, t, data in network.edges(data=True))]
    for name, data in parts:
        for text in (name, *data, *data.values()):
            if isinstance(text, str) and _NOT_XML.search(text):
                raise InputError(f"{text!r} has a character that XML files cannot hold: use JSON")


def _restored(network: Any, without: Iterable[str] = ()) -> nx.MultiDiGraph:
    """What `_plain` did, undone, of whatever kind of graph a reader gave."""
    found = nx.MultiDiGraph()
    for node, data in network.nodes(data=True):
        found.add_node(node, **_undone(data, without))
    for source, target, data in network.edges(data=True):
        key = data.get("key", data.get("shown", 0))
        found.add_edge(source, target, key=key)
        found.edges[source, target, key].update(_undone(data, {*without, "key"}))
    return found


def graphml_text(network: nx.MultiDiGraph) -> str:
    """GraphML, as Gephi, yEd and Cytoscape read it."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + "\n".join(
        nx.generate_graphml(_plain(network, xml=True), named_key_ids=False)
    )


def read_graphml(text: str) -> nx.MultiDiGraph:
    """A GraphML document."""
    return _restored(nx.parse_graphml(text.encode(), force_multigraph=True))


def gexf_text(network: nx.MultiDiGraph) -> str:
    """GEXF 1.2, Gephi's own. Without the date of the day: the same graph is the same file."""
    text = "\n".join(nx.generate_gexf(_plain(network, xml=True), version="1.2draft"))
    dated = re.sub(r' lastmodifieddate="[^"]*"', "", text, count=1)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + dated


def read_gexf(text: str) -> nx.MultiDiGraph:
    """A GEXF document."""
    return _restored(nx.read_gexf(io.BytesIO(text.encode())), without={"id", "label"})


def node_link_text(network: nx.MultiDiGraph) -> str:
    """Node-link JSON, its edges under `edges`, as networkx and d3 read it; lists stay lists."""
    return json_text(nx.node_link_data(_with_lists(network), edges="edges"))


def read_node_link(text: str) -> nx.MultiDiGraph:
    """Node-link JSON, with its edges under `edges`, or under `links` as older files have them."""
    data = json.loads(text)
    edges = "links" if isinstance(data, dict) and "edges" not in data and "links" in data else "edges"
    return nx.MultiDiGraph(nx.node_link_graph(data, edges=edges))


def _with_lists(network: nx.MultiDiGraph) -> nx.MultiDiGraph:
    found = nx.MultiDiGraph()
    for node, data in network.nodes(data=True):
        found.add_node(str(node), **known(data, lists=True))
    for source, target, key, data in network.edges(keys=True, data=True):
        found.add_edge(str(source), str(target), key=str(key))
        found.edges[str(source), str(target), str(key)].update(known(data, lists=True))
    return found


def cytoscape_text(network: nx.MultiDiGraph) -> str:
    """Cytoscape.js JSON (.cyjs), which Cytoscape and networkx read; `interaction` is the measure shown."""
    plain = _with_lists(network)
    nodes = [{"data": {**data, "id": n, "value": n, "name": n}} for n, data in plain.nodes(data=True)]
    edges = []
    for i, (s, t, key, data) in enumerate(plain.edges(keys=True, data=True)):
        own = {"id": f"e{i}", "source": s, "target": t, "key": key, "interaction": key}
        edges.append({"data": {**data, **own}})
    head = {"data": [], "directed": True, "multigraph": True}
    return json_text({**head, "elements": {"nodes": nodes, "edges": edges}})


def read_cytoscape(text: str) -> nx.MultiDiGraph:
    """Cytoscape.js JSON."""
    ours = {"id", "value", "name", "source", "target", "interaction"}
    return _restored(nx.cytoscape_graph(json.loads(text)), without=ours)


def dot_text(network: nx.MultiDiGraph) -> str:
    """DOT for graphviz: nodes are n0, n1, ..., and a node's name is its label.

    Quoted text knows one escape, of the quote; what graphviz would read as one of a label (\\N is the node's
    id) or could not end the text with is a character reference, which it shows as the character. The key
    of an edge is `edge_key`, since graphviz keeps `key` for itself.
    """
    plain = _plain(network)
    number = {node: f"n{i}" for i, node in enumerate(plain)}
    lines = [
        f"  {number[node]} [{_dot_attributes({'label': node, **data})}];"
        for node, data in plain.nodes(data=True)
    ]
    lines += [
        f"  {number[s]} -> {number[t]} [{_dot_attributes({'edge_key': data.pop('key'), **data})}];"
        for s, t, data in plain.edges(data=True)
    ]
    return "\n".join(["digraph tasks {", '  graph [charset="UTF-8"];', *lines, "}"])


def _dot_attributes(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{dot_quoted(name)}={dot_quoted(_word(value))}" for name, value in data.items())


def dot_quoted(text: str) -> str:
    """Text as a quoted DOT string; `&`, `\\` and control characters as character references.

    >>> print(dot_quoted('say "a\\\\b" & c'))
    "say \\"a&#92;b\\" &amp; c"
    """
    safe = re.sub(r"[\x00-\x1f\x7f\\]", lambda m: f"&#{ord(m[0])};", text.replace("&", "&amp;"))
    return '"' + safe.replace('"', '\\"') + '"'


def dot_text_of(label: str) -> str:
    """What a label of `dot_text` says, once graphviz has taken the quotes off."""
    return html.unescape(label)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def edges_text(network: nx.MultiDiGraph) -> str:
    """CSV, one edge a row: source, target, key, then every attribute that some edge has; empty: unknown.

    It has no nodes: their attributes and tasks with no edge are in the other formats.
    """
    rows = [(s, t, k, known(d, lists=False)) for s, t, k, d in network.edges(keys=True, data=True)]
    names = list(dict.fromkeys(name for *_, data in rows for name in data))
    lines: list[list[Any]] = [["source", "target", "key", *names]]
    for s, t, key, data in rows:
        lines.append([s, t, key, *(_word(data[name]) if name in data else "" for name in names)])
    return _csv(lines)


def read_edges(text: str) -> nx.MultiDiGraph:
    """CSV of edges; `key` and `shown` are text, in other columns what looks like a number is one."""
    found = nx.MultiDiGraph()
    for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
        source, target, key = row.pop("source"), row.pop("target"), row.pop("key", None)
        data = {name: v if name == "shown" else _value(v) for name, v in row.items() if v != ""}
        key = key or data.get("shown", 0)
        found.add_edge(source, target, key=key)
        found.edges[source, target, key].update(
            _undone({n: row[n] if n.endswith(AS_JSON) else v for n, v in data.items()})
        )
    return found


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def adjacency_text(network: nx.MultiDiGraph) -> str:
    """CSV matrix of the shown values: a row for each source, a column for each target; empty: no edge.

    InputError where two edges join a pair, since a cell holds one value.
    """
    names = list(network)
    lines: list[list[Any]] = [["source", *names]]
    for source in names:
        cells = [
            known(d, lists=True)
            for t in names
            for d in (network.get_edge_data(source, t) or {0: {}}).values()
        ]
        if len(cells) != len(names):
            raise InputError(f"{source!r} has two edges to one target: a matrix shows one measure")
        lines.append([source, *(_word(cell["weight"]) if "weight" in cell else "" for cell in cells)])
    return _csv(lines)


def read_adjacency(text: str) -> nx.MultiDiGraph:
    """CSV matrix: edges with a weight and the key 0."""
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = nx.MultiDiGraph()
    found.add_nodes_from(header[1:])
    for source, *cells in rows:
        for target, cell in zip(header[1:], cells, strict=True):
            if cell != "":
                found.add_edge(source, target, key=0, weight=float(cell))
    return found


def _csv(lines: Iterable[Iterable[Any]]) -> str:
    page = io.StringIO()
    csv.writer(page, lineterminator="\n").writerows(lines)
    return page.getvalue()


WRITERS: dict[str, Callable[[nx.MultiDiGraph], str]] = {
    GRAPHML: graphml_text,
    GEXF: gexf_text,
    NODE_LINK: node_link_text,
    DOT: dot_text,
    CYTOSCAPE: cytoscape_text,
    EDGES: edges_text,
    ADJACENCY: adjacency_text,
}
READERS: dict[str, Callable[[str], nx.MultiDiGraph]] = {
    GRAPHML: read_graphml,
    GEXF: read_gexf,
    NODE_LINK: read_node_link,
    CYTOSCAPE: read_cytoscape,
    EDGES: read_edges,
    ADJACENCY: read_adjacency,
}
