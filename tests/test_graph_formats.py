"""Each graph format, read back: the same nodes, edges and attributes, and what it cannot hold."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from typing import Any

import networkx as nx
import numpy as np
import pytest

from transferscope.errors import InputError
from transferscope.graph_formats import READERS, WRITERS, dot_text_of, read, write

NAMES = ("naïve 任务", 'quo"te', "back\\", "<b>&amp;\\N", "a,b;\nc", "alone 🙂", "1e5")
WHOLE = ("graphml", "gexf", "node-link", "cytoscape")


def network() -> nx.MultiDiGraph:
    """Hostile names; None, NaN, lists, integers, booleans, numpy scalars; two edges of one pair."""
    a, b, c, d, e, alone, number = NAMES
    made = nx.MultiDiGraph()
    made.add_node(a, type="NLI", own=0.1 + 0.2, size=7, model="täst", community=0)
    made.add_node(b, type=None, own=math.nan, size=np.int64(3), flags=[1, None, "ä"])
    made.add_nodes_from([c, d, e, alone, number])
    made.add_edge(a, b, key="on", weight=1e-17, shown="on", on=1e-17, **{"zero-shot relative": -1 / 3})
    made.add_edge(a, b, key="zero-shot", weight=0.5, shown="zero-shot", **{"zero-shot": np.float64(0.5)})
    made.add_edge(b, a, key="on", weight=0.25, shown="on", on=0.25, ci=[0.1, math.nan], none=None)
    made.add_edge(c, d, key="on", weight=-2.0, shown="on", on=-2.0, significance=0.04)
    made.add_edge(e, number, key="on", weight=3.0, shown="on", on=3.0, strong=True, count=12)
    return made


def nodes(found: nx.MultiDiGraph) -> dict[str, dict[str, Any]]:
    return {node: dict(data) for node, data in found.nodes(data=True)}


def edges(found: nx.MultiDiGraph) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(s, t, k): dict(data) for s, t, k, data in found.edges(keys=True, data=True)}


def expected() -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str, str], dict[str, Any]]]:
    """What is left of `network`: nothing unknown, and null for what is unknown in a list."""
    made = network()
    made.nodes[NAMES[1]].clear()
    made.nodes[NAMES[1]].update(size=3, flags=[1, None, "ä"])
    back = made.edges[NAMES[1], NAMES[0], "on"]
    back.pop("none")
    back["ci"] = [0.1, None]
    return nodes(made), edges(made)


def same_types(found: dict[Any, dict[str, Any]], right: dict[Any, dict[str, Any]]) -> bool:
    return all(
        type(found[key][name]) is type(value) or isinstance(value, np.generic)
        for key, data in right.items()
        for name, value in data.items()
    )


@pytest.mark.parametrize("format_", WHOLE)
def test_read_back_the_same(format_: str) -> None:
    text = write(network(), format_)
    found = read(text, format_)
    right_nodes, right_edges = expected()
    assert nodes(found) == right_nodes
    assert edges(found) == right_edges
    assert same_types(nodes(found), right_nodes)
    assert same_types(edges(found), right_edges)
    assert write(found, format_) == text


@pytest.mark.parametrize("format_", WRITERS)
def test_the_same_graph_is_the_same_text_and_nothing_is_changed(format_: str) -> None:
    made = network()
    if format_ == "adjacency":
        made.remove_edge(NAMES[0], NAMES[1], "zero-shot")
    before = str(nodes(made)), str(edges(made))
    assert write(made, format_) == write(made, format_)
    assert (str(nodes(made)), str(edges(made))) == before
    empty = write(nx.MultiDiGraph(), format_)
    assert format_ not in READERS or len(read(empty, format_)) == 0


def test_networkx_alone_reads_them() -> None:
    text = {format_: write(network(), format_) for format_ in WHOLE}
    plain = [
        nx.parse_graphml(text["graphml"].encode(), force_multigraph=True),
        nx.read_gexf(io.BytesIO(text["gexf"].encode())),
        nx.node_link_graph(json.loads(text["node-link"]), edges="edges"),
        nx.cytoscape_graph(json.loads(text["cytoscape"])),
    ]
    for found in plain:
        assert found.is_directed()
        assert found.is_multigraph()
        assert set(found) == set(NAMES)
        assert sorted(w for *_, w in found.edges(data="weight")) == sorted([1e-17, 0.5, 0.25, -2.0, 3.0])


def test_ids_of_edges_are_not_given_twice() -> None:
    for format_ in ("graphml", "gexf"):
        tree = ElementTree.fromstring(write(network(), format_))
        ids = [one.get("id") for one in tree.iter() if one.tag.endswith("}edge")]
        assert len(ids) == len(set(ids)) == 5
    elements = json.loads(write(network(), "cytoscape"))["elements"]
    assert len({edge["data"]["id"] for edge in elements["edges"]}) == 5
    assert elements["nodes"][0]["data"]["name"] == NAMES[0]


def test_gexf_and_graphml_say_what_gephi_reads() -> None:
    gexf = ElementTree.fromstring(write(network(), "gexf"))
    assert gexf.tag == "{http://www.gexf.net/1.2draft}gexf"
    weights = {one.get("weight") for one in gexf.iter() if one.tag.endswith("}edge")}
    assert "0.25" in weights
    labels = [one.get("label") for one in gexf.iter() if one.tag.endswith("}node")]
    assert labels == list(NAMES)
    types = {
        one.get("attr.name"): one.get("attr.type")
        for one in ElementTree.fromstring(write(network(), "graphml")).iter()
        if one.tag.endswith("}key")
    }
    assert (types["weight"], types["type"], types["size"]) == ("double", "string", "long")


def test_node_link_accepts_links() -> None:
    data = json.loads(write(network(), "node-link"))
    data["links"] = data.pop("edges")
    assert edges(read(json.dumps(data), "node-link")) == expected()[1]
    assert "NaN" not in write(network(), "node-link")


def test_edges_and_adjacency() -> None:
    text = write(network(), "edges")
    assert edges(read(text, "edges")) == expected()[1]
    assert next(csv.reader(io.StringIO(text)))[:5] == ["source", "target", "key", "weight", "shown"]
    with pytest.raises(InputError, match="two edges to one target"):
        write(network(), "adjacency")
    made = network()
    made.remove_edge(NAMES[0], NAMES[1], "zero-shot")
    found = read(write(made, "adjacency"), "adjacency")
    assert list(found) == list(NAMES)
    assert {(s, t): w for s, t, w in found.edges(data="weight")} == {
        (s, t): w for s, t, w in made.edges(data="weight")
    }


def test_dot_as_graphviz_reads_it() -> None:
    dot = shutil.which("dot")
    if dot is None:
        pytest.skip("graphviz is not installed: its `dot` reads the file back")
    text = write(network(), "dot")
    done = subprocess.run([dot, "-Tjson"], input=text.encode(), capture_output=True, check=True, timeout=60)
    assert done.stderr == b""
    found = json.loads(done.stdout)
    objects = [{dot_text_of(k): dot_text_of(str(v)) for k, v in one.items()} for one in found["objects"]]
    assert [one["label"] for one in objects] == list(NAMES)
    right_nodes, right_edges = expected()
    for one in objects:
        for name, value in right_nodes[one["label"]].items():
            assert said(one, name) == value
    for one in found["edges"]:
        data = {dot_text_of(k): dot_text_of(str(v)) for k, v in one.items()}
        pair = objects[one["tail"]]["label"], objects[one["head"]]["label"], data["edge_key"]
        for name, value in right_edges.pop(pair).items():
            assert said(data, name) == value
    assert right_edges == {}


def said(data: dict[str, str], name: str) -> Any:
    """An attribute of DOT, where all is text."""
    if f"{name} (json)" in data:
        return json.loads(data[f"{name} (json)"])
    try:
        return json.loads(data[name])
    except json.JSONDecodeError:
        return data[name]


def test_dot_quotes_without_graphviz() -> None:
    text = write(network(), "dot")
    assert '"quo\\"te"' in text
    assert '"back&#92;"' in text
    # Quoted text is no HTML: only & and \ are references.
    assert '"<b>&amp;amp;&#92;N"' in text
    assert '"a,b;&#10;c"' in text
    assert text.count("->") == 5
    assert [dot_text_of(one) for one in ("back&#92;", "&amp;amp;")] == ["back\\", "&amp;"]


@pytest.mark.parametrize("format_", WRITERS)
def test_infinite_numbers_are_refused(format_: str) -> None:
    made = nx.MultiDiGraph()
    made.add_edge("a", "b", key="on", weight=math.inf)
    with pytest.raises(InputError, match="'weight' is inf"):
        write(made, format_)


@pytest.mark.parametrize("format_", ["graphml", "gexf"])
@pytest.mark.parametrize("place", ["node", "type", "measure"])
def test_xml_refuses_control_characters(format_: str, place: str) -> None:
    made = nx.MultiDiGraph()
    made.add_node("a\x01" if place == "node" else "a", type="x\x01" if place == "type" else "x")
    made.add_edge("b", "c", key="on", **{"o\x01" if place == "measure" else "on": 1.0})
    with pytest.raises(InputError, match="XML files cannot hold"):
        write(made, format_)
    assert nodes(read(write(made, "node-link"), "node-link")) == nodes(made)


@pytest.mark.parametrize(
    ("format_", "text"),
    [("graphml", "<a"), ("gexf", "no"), ("node-link", "[]"), ("cytoscape", "{}"), ("edges", "a,b\n1,2\n")],
)
def test_broken_text_is_an_input_error(format_: str, text: str) -> None:
    with pytest.raises(InputError, match=f"this is no {format_} graph"):
        read(text, format_)


def test_unknown_formats() -> None:
    with pytest.raises(InputError, match="Did you mean 'graphml'"):
        write(network(), "graphxml")
    with pytest.raises(InputError, match="not read from 'dot'"):
        read("digraph {}", "dot")
