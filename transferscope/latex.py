"""A table of text cells as LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def tabular(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    notes: Sequence[str],
) -> str:
    """A table environment; `right` says of each column whether it stands at the right, as numbers do."""
    lines = ["\\begin{table}", "\\caption{" + escaped(title) + "}"]
    lines += ["\\begin{tabular}{" + "".join("r" if one else "l" for one in right) + "}", "\\toprule"]
    lines += [_line(columns), "\\midrule", *map(_line, rows), "\\bottomrule", "\\end{tabular}"]
    lines += ["\\par\\footnotesize " + escaped(note) for note in notes]
    return "\n".join([*lines, "\\end{table}"])


def escaped(text: str) -> str:
    """Text in which no character commands LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
