"""A file imports only files of a lower level, by its import statements, those inside functions included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# What may import what: only downwards. A package stands here as one; inside it imports are free, but not
# circular. Halves stand between two levels of the design.
LEVELS: dict[str, float] = {
    "indicators": 0,
    "errors": 0,
    "ridge": 0.5,
    "needs": 0.5,
    "latex": 0.5,
    "catalogue": 1,
    "text_metrics": 0.5,
    "fingerprints": 0,
    "digests": 1.3,
    "halving": 1,
    "placement": 1.2,
    "quantization": 1.2,
    "layer_devices": 4.2,
    "layer_sums": 4.3,
    "metrics": 1,
    "filesystems": 0.1,
    "addresses": 0.2,
    "file_cache": 0.3,
    "files": 0.5,
    "staleness": 0.5,
    "store": 1,
    "architectures": 1,
    "executors": 1,
    "loading": 1,
    "task_files": 1,
    "task_spec": 1,
    "tasks": 2,
    "models": 2,
    "checkpoints": 1.8,
    "products": 1,
    "expertise": 1,
    "routed": 4.1,
    "settings": 2.5,
    "templates": 3,
    "prompts": 3,
    "foreign": 3.2,
    "adapters": 3.2,
    "readouts": 3.6,
    "decoding": 3.6,
    "text_cache": 3.3,
    "attachment": 3.5,
    "encoding": 3.5,
    "activations": 4,
    "evaluation": 4,
    "streaming": 4.4,
    "measurement": 4.5,
    "tuning": 5,
    "signatures": 5,
    "zero_shot": 5,
    "activity": 5,
    "gradients": 5,
    "pair_features": 5.5,
    "profiles": 5.6,
    "probing": 5,
    "projector": 4,
    "descent": 4.5,
    "descent_state": 4.4,
    "projection": 5.5,
    "projection_report": 6.5,
    "baselines": 6,
    "comparison": 6,
    "transfer": 6,
    "interventions": 6,
    "racing": 6,
    "agreement": 6,
    "resampling": 6,
    "evidence": 6.5,
    "agreement_tables": 6.7,
    "trials": 6.5,
    "ordering": 6.5,
    "initialisation": 6,
    "cells": 6.5,
    "pair_comparison": 6.5,
    "correlation": 7,
    "adaptive": 6.5,
    "recommendation": 6.9,
    "default_indicator": 6.95,
    "parts": 6.3,
    "judging": 6.8,
    "sensitivity": 7,
    "combined": 7.2,
    "sensitivity_tables": 8.3,
    "combined_tables": 8.3,
    "skill_sets": 1,
    "word_promotion": 2.5,
    "neuron_stream": 4.5,
    "prompt_rows": 5,
    "neuron_view": 5.5,
    "specificity": 6.5,
    "neuron_tables": 8.5,
    "neuron_study": 9.3,
    "tuning_run": 4.8,
    "masks": 1,
    "token_budget": 3.6,
    "precision": 4.6,
    "safe_precision": 4.9,
    "pooling": 4.7,
    "tuning_together": 5.2,
    "methods": 3,
    "method_tuning": 5,
    "word_selectivity": 5,
    "origin_perturbation": 8.4,
    "origin_report": 8.5,
    "kept_signatures": 8.3,
    "kept_prompts": 8.4,
    "dev_halves": 8.4,
    "origin_material": 8.5,
    "origin": 8.7,
    "origin_tables": 8.7,
    "neuron_levels": 4.5,
    "perturbation_plan": 6.2,
    "perturbation": 6.4,
    "perturbation_curves": 6.8,
    "perturbing": 8.6,
    "perturbation_tables": 8.5,
    "packed": 1,
    "segments": 1.5,
    "stacked": 1.6,
    "sketches": 5.3,
    "stored": 5.4,
    "nearest": 5.45,
    "block_pairs": 5.45,
    "library": 5.5,
    "library_tables": 8.2,
    "nearest_tables": 8.2,
    "pruned": 1.5,
    "adjustments": 1.5,
    "heads": 1.5,
    "plots": 8.8,
    "pruning": 5,
    "pruning_speed": 5,
    "pruning_study": 8.6,
    "pruning_tables": 8.7,
    "ranking": 7,
    "graph": 7,
    "budget": 7,
    "facility": 7,
    "choosing": 7.1,
    "graph_analysis": 7.2,
    "summary": 7.5,
    "summary_tables": 8.2,
    "outline": 2.6,
    "counting": 9.1,
    "planning": 9.2,
    "planning_starts": 9.25,
    "planning_tables": 9.3,
    "exporters": 8,
    "workspace": 8,
    "measuring": 8.5,
    "pairing": 8.6,
    "pieces": 1,
    "raced": 8.6,
    "foresight": 8.7,
    "selection": 8.7,
    "transfer_tables": 8.5,
    "graph_formats": 8.2,
    "graph_tables": 8.5,
    "correlation_tables": 8.2,
    "budget_tables": 8.2,
    "report": 9.2,
    "importers": 8.5,
    "pipeline": 9,
    "units": 9.2,
    "distribution": 9.3,
    "model_comparison": 9.3,
    "demo": 9.5,
    "cli": 10,
    "__main__": 11,
    "__init__": 12,
}
PACKAGES = {"indicators", "demo", "cli", "executors", "importers", "plots", "report"}
NUMERICAL = {"numpy", "scipy", "sklearn", "pandas", "networkx", "torch", "transformers"}


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, the line, and whether importing the file imports it too."""

    module: str
    line: int
    at_import: bool


def imports(path: Path, module: str) -> Iterator[Import]:
    """The imports of a file; `from package import module` counts as an import of that module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_import = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_import = False
        if isinstance(node, ast.Import):
            yield from (Import(name.name, node.lineno, at_import) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            )
            source = ".".join(filter(None, [base, node.module]))
            yield from (Import(f"{source}.{name.name}", node.lineno, at_import) for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            named = [
                a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            yield from (Import(name, node.lineno, at_import) for name in named)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def sources(root: Path) -> dict[str, Path]:
    """Module name -> file, of both packages."""
    files = sorted((root / "indicators").rglob("*.py")) + sorted((root / "transferscope").rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def place(module: str, known: dict[str, Path]) -> str | None:
    """The row of the table that a dotted name belongs to; None for other people's modules."""
    parts = module.split(".")
    if parts[0] == "indicators":
        return "indicators"
    if parts[0] != "transferscope":
        return None
    if len(parts) == 1 or not any(name.split(".")[:2] == parts[:2] for name in known):
        return "__init__"  # the package itself, or a name that its __init__ defines
    return parts[1]


def violations(root: Path) -> list[str]:
    """What breaks the rule, one line each."""
    known = sources(root)
    found = []
    for module, path in known.items():
        own = place(module, known)
        if own not in LEVELS:
            found.append(
                f"{path.relative_to(root)}: not in the table of tests/test_layers.py; add it to the table"
            )
            continue
        for imported in imports(path, module):
            other = place(imported.module, known)
            if other is None or other not in LEVELS or imported.module == "transferscope.__version__":
                continue
            if LEVELS[other] < LEVELS[own] or (other == own and own in PACKAGES):
                continue
            found.append(
                f"{path.relative_to(root)}:{imported.line}: level {LEVELS[own]} ({own}) imports "
                f"{imported.module}, level {LEVELS[other]} ({other}); only lower levels may be imported"
            )
    return found


def cycle(root: Path) -> list[str]:
    """A chain of modules that import each other when imported, or []."""
    known = sources(root)

    def target(name: str) -> str | None:
        return (
            name if name in known else name.rpartition(".")[0] if name.rpartition(".")[0] in known else None
        )

    edges = {
        module: {target(i.module) for i in imports(path, module) if i.at_import} - {None, module}
        for module, path in known.items()
    }
    done: set[str] = set()

    def search(module: str, chain: list[str]) -> list[str]:
        if module in chain:
            return [*chain[chain.index(module) :], module]
        if module in done:
            return []
        for other in sorted(edges[module]):
            if found := search(other, [*chain, module]):
                return found
        done.add(module)
        return []

    return next((found for module in known if (found := search(module, []))), [])


def test_files_import_only_lower_levels() -> None:
    found = violations(REPOSITORY)
    assert not found, "\n".join(found)


def test_no_file_imports_itself_in_a_circle() -> None:
    # The version is read from the package by files that the package does not import: no circle.
    assert cycle(REPOSITORY) == []


def third_parties(package: str) -> list[tuple[str, Import]]:
    ours = {"indicators", "transferscope", "__future__"}
    return [
        (module, imported)
        for module, path in sources(REPOSITORY).items()
        if module == package or module.startswith(f"{package}.")
        for imported in imports(path, module)
        if imported.module.split(".")[0] not in ours | sys.stdlib_module_names
    ]


def test_indicators_are_numbers_alone() -> None:
    allowed = {"numpy", "scipy", "sklearn"}
    found = third_parties("indicators")
    others = [(m, i) for m, i in found if i.module.split(".")[0] not in allowed]
    # The solvers of optimal transport are an extra, asked for where they are used.
    assert [(m, i) for m, i in others if i.module.split(".")[0] != "ot" or i.at_import] == []


def test_the_command_line_has_nothing_numerical() -> None:
    found = third_parties("transferscope.cli")
    at_import = [(m, i) for m, i in found if i.at_import and i.module.split(".")[0] not in {"click", "rich"}]
    assert at_import == []
    numerical = NUMERICAL - {"torch", "transformers"}  # these two may be asked for, say, their versions
    assert [(m, i) for m, i in found if i.module.split(".")[0] in numerical] == []


def test_the_command_line_imports_the_library_only_in_command_bodies() -> None:
    known = sources(REPOSITORY)
    early = [
        (module, imported)
        for module, path in known.items()
        if module.startswith("transferscope.cli")
        for imported in imports(path, module)
        if imported.at_import and place(imported.module, known) not in {None, "cli", "errors", "__init__"}
    ]
    assert early == []


def test_the_package_itself_imports_nothing_of_ours() -> None:
    path = REPOSITORY / "transferscope" / "__init__.py"
    early = [
        i for i in imports(path, "transferscope") if i.at_import and place(i.module, sources(REPOSITORY))
    ]
    assert early == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "store.py",
            "from transferscope.tuning import tune",
            "level 1 (store) imports transferscope.tuning.tune",
        ),
        ("store.py", "from transferscope import tuning", "imports transferscope.tuning, level 5"),
        ("store.py", "import transferscope.architectures", "level 1 (architectures)"),
        ("store.py", "def f():\n    import transferscope.tuning", "store.py:2"),
        ("store.py", "from .tuning import tune", "imports transferscope.tuning.tune"),
        ("store.py", "from . import tuning", "imports transferscope.tuning"),
        ("store.py", "import importlib\nimportlib.import_module('transferscope.tuning')", "store.py:2"),
        ("demo/tasks.py", "from ..cli import main", "imports transferscope.cli.main"),
        ("store.py", "from transferscope import tune", "only lower levels"),
        ("errors.py", "import indicators", "level 0 (errors) imports indicators"),
        ("new_file.py", "", "add it to the table"),
        ("new_folder/file.py", "", "add it to the table"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    plant(tmp_path, {file: text})
    (found,) = violations(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tuning.py", "from transferscope.store import Study"),
        ("tuning.py", "import indicators.neurons, torch"),
        ("cli/tune.py", "from transferscope.cli.options import option\nfrom .. import tuning"),
        ("store.py", "from transferscope import __version__"),
        ("store.py", '"""Say `from transferscope.tuning import tune`."""'),
    ],
)
def test_what_is_allowed_is_not_complained_about(tmp_path: Path, file: str, text: str) -> None:
    plant(tmp_path, {file: text})
    assert violations(tmp_path) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    plant(tmp_path, {"demo/a.py": "from transferscope.demo import b", "demo/b.py": "from .a import x"})
    assert cycle(tmp_path) == ["transferscope.demo.a", "transferscope.demo.b", "transferscope.demo.a"]
    plant(tmp_path, {"demo/b.py": "def f():\n    from .a import x"})
    assert cycle(tmp_path) == []


def plant(root: Path, files: dict[str, str]) -> None:
    """A small copy of the project's shape with these files in it."""
    empty = {
        "__init__.py": "",
        "store.py": "",
        "tuning.py": "",
        "architectures.py": "",
        "cli/__init__.py": "",
    }
    for name, text in {**empty, **files}.items():
        path = root / "transferscope" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
