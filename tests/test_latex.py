"""Tables for LaTeX: special characters, the columns' sides, and the shape."""

from __future__ import annotations

from transferscope import latex


def test_special_characters_are_text() -> None:
    assert latex.escaped(r"a_b & 5 % {x} \y ~ ^ # $") == (
        r"a\_b \& 5 \% \{x\} \textbackslash{}y \textasciitilde{} \textasciicircum{} \# \$"
    )


def test_a_table() -> None:
    text = latex.tabular("T_1", ["name", "p"], [["a_b", "0.5"]], [False, True], ["95 %"])
    assert text.splitlines() == [
        r"\begin{table}",
        r"\caption{T\_1}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"name & p \\",
        r"\midrule",
        r"a\_b & 0.5 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\footnotesize 95 \%",
        r"\end{table}",
    ]
