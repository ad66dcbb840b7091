"""What the artists of a plot hold is what its record says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plot_records as made
import pytest
from matplotlib.figure import Figure

from transferscope import plots
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.ordering import Ranking
from transferscope.plots.matrix import written
from transferscope.plots.order import arrange
from transferscope.plots.places import apart


def cells(figure: Figure, mesh: int = 0) -> np.ndarray:
    """The values of a heatmap, rows from the top."""
    found = figure.axes[0].collections[mesh].get_array()
    return np.ma.filled(np.ma.asarray(found, float), np.nan)


def row_names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_an_indicator_heatmap_has_the_values_under_their_names() -> None:
    record = made.indicator(6)
    figure = plots.plot(record)
    rows = row_names(figure)
    at = [record.tasks.index(name) for name in rows]
    np.testing.assert_array_equal(cells(figure).reshape(6, 6), record.values[np.ix_(at, at)])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == rows
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert written(float(record.values[0, 1])) in texts


def test_values_are_written_up_to_twenty_tasks() -> None:
    assert len(plots.plot(made.indicator(20)).axes[0].texts) == 400
    assert len(plots.plot(made.indicator(21)).axes[0].texts) == 0


def test_negative_cells_are_marked_where_nothing_is_written() -> None:
    record = made.indicator(21)
    figure = plots.plot(record)
    marks = np.concatenate([c.get_offsets() for c in figure.axes[0].collections[1:]])
    shown = cells(figure).reshape(21, 21)
    assert {(int(y), int(x)) for x, y in marks} == {(i, j) for i, j in np.argwhere(shown < 0)}


def test_values_of_both_signs_are_centred_on_zero_and_others_are_not() -> None:
    both = plots.plot(made.indicator(6)).axes[0].collections[0].norm
    assert both.vmin == -both.vmax
    values = np.abs(made.indicator(6).values) + 1.0
    one = plots.plot(IndicatorMatrix("on", made.names(6), values)).axes[0].collections[0].norm
    others = values[~np.eye(6, dtype=bool)]
    assert (one.vmin, one.vmax) == (others.min(), others.max())


def test_tasks_are_grouped_by_type_or_clustered_or_as_given() -> None:
    record = made.indicator(8)
    order = arrange(record.tasks, record.values, made.types(8))
    assert [kind for kind, _ in order.groups] == list(made.TYPES)
    assert order.places == (0, 4, 1, 5, 2, 6, 3, 7)
    clustered = arrange(record.tasks, record.values, {record.tasks[0]: "sentiment"})
    assert sorted(clustered.places) == list(range(8))
    assert clustered.groups == ()
    blocks = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]], float)
    found = arrange(("a", "b", "c", "d"), blocks).places
    assert {frozenset(found[:2]), frozenset(found[2:])} == {frozenset((0, 2)), frozenset((1, 3))}
    blocks[0, 1] = blocks[1, 0] = np.nan
    assert arrange(("a", "b", "c", "d"), blocks).said == "tasks as given"


def test_transfer_has_its_controls_below() -> None:
    record = made.transfer(6)
    figure = plots.plot(record)
    assert row_names(figure)[-2:] == ["(none)", "(random)"]
    at = [record.targets.index(name) for name in row_names(figure)[:6]]
    below = cells(figure, 1).reshape(2, 6)
    np.testing.assert_allclose(below[1], record.controls["random"].mean(axis=0)[at])
    relative = plots.plot(record, "relative")
    np.testing.assert_allclose(np.diag(cells(relative).reshape(6, 6)), 1.0)


def test_a_cell_that_is_not_known_has_no_colour() -> None:
    record = made.transfer(4)
    record.values[1, 2] = np.nan
    assert np.isnan(cells(plots.plot(record))).sum() == 1


def points(figure: Figure, panel: int = 0) -> set[tuple[float, float]]:
    """(x, row) of all markers of a panel."""
    lines = [line for line in figure.axes[panel].lines if line.get_linestyle() == "None"]
    return {(round(float(x), 9), float(y)) for line in lines for x, y in line.get_xydata()}


def test_a_ranking_shows_scores_intervals_and_measured_values() -> None:
    record = made.ranking(7)
    figure = plots.plot(record)
    assert points(figure) == {(round(s.score or 0, 9), float(i)) for i, s in enumerate(record.sources)}
    assert points(figure, 1) == {
        (round(s.measured, 9), float(i)) for i, s in enumerate(record.sources) if s.measured
    }
    bars = np.concatenate(
        [c.get_segments() for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    )
    ends = {(round(float(bar[0, 0]), 9), round(float(bar[1, 0]), 9)) for bar in bars}
    assert ends == {(round(s.low or 0, 9), round(s.high or 0, 9)) for s in record.sources}
    legend = figure.axes[1].get_legend()
    assert legend is not None
    said = [text.get_text() for text in legend.get_texts()]
    assert said[:3] == ["ties with the best and tied by evidence", "ties with the best", "does not tie"]
    assert "baseline mean_transfer" in said


def test_a_ranking_without_scores_shows_what_was_measured_alone() -> None:
    record = made.ranking(4)
    bare = tuple(replace(s, score=None, low=None, high=None, measured=0.5) for s in record.sources)
    figure = plots.plot(Ranking("t", "m", None, bare, (), ()))
    assert [axes.get_xlabel() for axes in figure.axes] == ["measured transfer"]


def test_a_forest_tells_baselines_from_indicators_and_is_sorted() -> None:
    record = made.correlation(6)
    figure = plots.plot(record)
    names = row_names(figure)
    means = [record.get(name).mean for name in names]
    assert means == sorted(means, reverse=True)
    assert points(figure) == {(round(mean, 9), float(i)) for i, mean in enumerate(means)}
    markers = {
        line.get_marker(): len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() in "os"
    }
    assert markers == {"o": 6, "s": 4}
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "spearman (higher is better)", "ndcg (higher is better)", "regret@1 (lower is better)",
        "top_1 (higher is better)",
    ]  # fmt: skip
    regrets = plots.plot(record, metrics=["regret@1"])
    means = [record.get(name, "regret@1").mean for name in row_names(regrets)]
    assert means == sorted(means)
    with pytest.raises(InputError, match=r"no metric 'spearmann'.*Did you mean 'spearman'"):
        plots.plot(record, metrics=["spearmann"])
    with pytest.raises(InputError, match=r"no scores of all pooled. Did you mean 'all per-target'"):
        plots.plot(record, aggregate="pooled")


def curve(figure: Figure, panel: int, line: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[panel].lines[line].get_xydata())


def band(figure: Figure, panel: int) -> tuple[float, float]:
    """Least and largest value of the first band of a panel."""
    heights = figure.axes[panel].collections[0].get_paths()[0].vertices[:, 1]
    return float(heights.min()), float(heights.max())


def test_budget_curves_are_those_of_the_report() -> None:
    record = made.budget(3)
    figure = plots.plot(record)
    for i, name in enumerate(record.names):
        expected = [(point.k, point.mean) for point in record.curve(name)]
        np.testing.assert_allclose(curve(figure, i), expected)
        lows, highs = zip(*((point.low, point.high) for point in record.curve(name)), strict=True)
        assert band(figure, i) == pytest.approx((min(lows), max(highs)))
        # Every baseline but the panel's own beside it.
        assert len(figure.axes[i].lines) == (5 if i < 3 else 4)


def test_sensitivity_curves_have_the_whole_network_and_the_baselines_as_lines() -> None:
    record = made.sensitivity(2)
    figure = plots.plot(record)
    np.testing.assert_allclose(curve(figure, 1), [(p.x, p.mean) for p in record.curve("indicator_01")[:12]])
    levels = [float(line.get_ydata()[0]) for line in figure.axes[1].lines[1:]]
    assert levels == [0.35, 0.0, 0.1, 0.2, pytest.approx(0.3)]


def test_perturbation_curves_are_those_of_the_report() -> None:
    record = made.perturbation(3)
    figure = plots.plot(record)
    for i, task in enumerate(record.tasks):
        for j, condition in enumerate(("skill", "random", "bottom")):
            expected = [(p.rate, p.mean) for p in task.points if p.condition == condition]
            np.testing.assert_allclose(curve(figure, i, j), expected)
    across = plots.plot(record, "across")
    np.testing.assert_array_equal(
        cells(across).reshape(3, 3), record.across.beyond if record.across else None
    )
    with pytest.raises(InputError, match="nothing was measured across tasks"):
        plots.plot(replace(record, across=None), "across")


def test_a_pruned_curve_goes_from_the_whole_model_to_each_share() -> None:
    record = made.pruning(4)
    figure = plots.plot(record)
    (axes,) = figure.axes
    assert float(axes.lines[0].get_ydata()[0]) == 0.9
    for i in (0, 1):  # skill, random
        expected = [(0.0, 0.9), *((one.pruned, one.scores[i].value) for one in record.curve)]
        np.testing.assert_allclose(curve(figure, 0, 1 + i), expected)
    assert band(figure, 0) == pytest.approx((0.9 - 0.2 * 0.8 - 0.04, 0.93))
    np.testing.assert_allclose(curve(figure, 0, 3), [(record.curve[1].pruned, 0.88)])
    assert len(axes.lines) == 5
    alone = replace(record.scores[0], low=None, high=None)
    bare = replace(record, seeds=(0,), scores=(alone,), curve=())
    drawn = plots.plot(bare)
    assert len(drawn.axes[0].lines) == 2
    assert any("no intervals" in text.get_text() for text in drawn.texts)


def test_effects_are_differences_by_way_of_tuning() -> None:
    record = made.origin(3)
    figure = plots.plot(record)
    assert len(figure.axes) == 3
    for panel, subject in enumerate(made.names(3)):
        expected = [
            (one.rate, one.difference.mean)
            for one in record.effects
            if one.subject == subject and one.neurons == "skill"
        ]
        np.testing.assert_allclose(curve(figure, panel, 1), expected)
    assert band(figure, 0) == pytest.approx((0.05 - 0.02, 0.2 + 0.03))
    legend = figure.axes[1].get_legend()
    assert legend is not None
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["skill", "word-selective", "as random ones"]
    with pytest.raises(InputError, match="no effects"):
        plots.plot(replace(record, effects=()))


def test_overlaps_stand_beside_chance_and_by_layer() -> None:
    record = made.origin(3)
    figure = plots.plot(record, "overlap")
    rates = (0.05, 0.1, 0.2)
    np.testing.assert_allclose(curve(figure, 0, 0), [(rate, round(100 * rate) / 100) for rate in rates])
    np.testing.assert_allclose(curve(figure, 0, 1), [(rate, rate) for rate in rates])
    np.testing.assert_allclose(curve(figure, 1, 0), [(0, 0.4), (1, np.nan), (2, 0.2)])
    with pytest.raises(InputError, match="origin --controls"):
        plots.plot(replace(record, overlaps=()), "overlap")


def test_projected_prompts_stand_beside_their_baselines_held_out_ones_on_top() -> None:
    record = made.projection(5)
    figure = plots.plot(record)
    assert row_names(figure) == [made.names(5)[i] for i in (0, 3, 1, 2, 4)]
    tasks = {one.task: one for one in record.tasks}
    found = {(x, round(y, 9)) for x, y in points(figure)}
    for i, name in enumerate(row_names(figure)):
        one = tasks[name]
        expected = {(one.value, i - 0.3), (one.random, i + 0.1), (one.none, i + 0.3), (one.majority, i + 0.3)}
        assert {(round(x, 9), round(y, 9)) for x, y in expected} <= found
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()][:2] == [
        "projected, held-out task", "projected, task trained on",
    ]  # fmt: skip
    known = [c.get_segments() for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    bars = np.concatenate([segments for segments in known if len(segments)])
    ends = {(round(float(bar[0, 0]), 9), round(float(bar[1, 0]), 9)) for bar in bars}
    spreads = [s for t in record.tasks for s in (t.projected_spread, t.own_spread, t.random_spread)]
    assert ends == {(round(s.low, 9), round(s.high or 0, 9)) for s in spreads if s.low is not None}
    with pytest.raises(InputError, match="nothing to draw"):
        plots.plot(replace(record, tasks=()))


def test_layers_are_shares_of_each_tasks_skill_neurons() -> None:
    record = made.specificity(6)
    figure = plots.plot(record)
    mean, matrix = figure.axes[:2]
    names = [label.get_text() for label in matrix.get_yticklabels()]
    shares = record.layer_counts / record.layer_counts.sum(axis=1, keepdims=True)
    at = [record.tasks.index(name) for name in names]
    np.testing.assert_allclose(np.asarray(matrix.collections[0].get_array()).reshape(6, 12), shares[at])
    np.testing.assert_allclose(mean.lines[0].get_ydata(), shares.mean(axis=0))


def test_rows_of_the_prompt() -> None:
    record = made.rows(5)
    figure = plots.plot(record)
    np.testing.assert_allclose(curve(figure, 0), [(r.row, r.best) for r in record.rows])
    np.testing.assert_allclose(curve(figure, 1), [(r.row, r.share) for r in record.rows])
    matrix = np.asarray(figure.axes[3].collections[0].get_array()).reshape(12, 5)
    np.testing.assert_array_equal(matrix, record.best_by_layer)


def test_one_probed_row_alone_has_no_matrix_by_layer() -> None:
    record = replace(made.rows(1), layers=(), best_by_layer=np.zeros((0, 1)))
    assert len(plots.plot(record).axes) == 3


def test_histograms_have_the_counts_of_each_class() -> None:
    record = made.neurons(2)
    figure = plots.plot(record)
    histogram = record.neurons[0].histogram
    assert histogram is not None
    outlines = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    for patch, counts in zip(outlines, histogram.counts, strict=True):
        np.testing.assert_allclose(patch.get_data().values, counts)  # type: ignore[attr-defined]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [*record.labels, "baseline"]
    with pytest.raises(InputError, match="no neurons"):
        plots.plot(replace(record, neurons=()))


def test_learning_curves_are_means_over_seeds_beside_scratch() -> None:
    record = made.starts(2)
    figure = plots.plot(record)
    runs = [run for run in record.runs if run.start == made.names(2)[0]]
    mean = np.mean([run.curve.values for run in runs], axis=0)
    np.testing.assert_allclose(curve(figure, 1)[:, 1], mean)
    assert band(figure, 1)[0] == pytest.approx(min(min(run.curve.values) for run in runs))
    assert len(figure.axes[0].lines) == 1  # scratch itself
    assert len(figure.axes[1].lines) == 2
    several = plots.plot([record, replace(record, target="another", shots=8)])
    assert len(several.axes) == 6
    assert several.axes[-1].get_title(loc="left").endswith("to another, 8 shots")


def test_scatter_panels_hold_the_pairs_and_their_spearman() -> None:
    record = made.evidence(6)
    figure = plots.plot(record)
    for panel, target in zip(figure.axes, record.transfer.targets, strict=True):
        offsets = {
            (round(float(x), 9), round(float(y), 9)) for c in panel.collections for x, y in c.get_offsets()
        }
        matrix, t = record.matrices[0], record.matrices[0].tasks.index(target)
        expected = {
            (round(float(matrix.values[s, t]), 9), round(float(record.transfer.values[s, t]), 9))
            for s in range(6)
        }
        assert offsets == expected
    from scipy.stats import spearmanr

    others = [1, 2, 3, 4, 5]
    rho = spearmanr(record.matrices[0].values[others, 0], record.transfer.values[others, 0]).statistic
    assert figure.axes[0].get_title(loc="left") == f"{record.transfer.targets[0]}\nrho {rho:.2f}"
    with pytest.raises(InputError, match=r"no indicator 'onn' to draw. Did you mean 'on'"):
        plots.plot(record, indicator="onn")


def test_edges_are_as_wide_as_their_values_and_go_from_source_to_target() -> None:
    graph = made.task_graph(6).nearest(1)
    figure = plots.plot(graph)
    arrows = {patch.get_gid(): patch.get_linewidth() for patch in figure.axes[0].patches if patch.get_gid()}
    widths = [arrows[f"{s} to {t}"] for s, t, _ in graph.edges]
    assert len(arrows) == len(graph.edges) == 6
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (3.2, 0.5)


def test_of_very_many_edges_the_best_sources_are_drawn_and_that_is_said() -> None:
    graph = made.task_graph(12)
    figure = plots.plot(graph)
    assert sum(patch.get_gid() is not None for patch in figure.axes[0].patches) == 24
    assert any(
        "its 2 best sources, of 132 edges" in text.get_text().replace("\n", " ") for text in figure.texts
    )


def test_nodes_are_coloured_by_community_or_type() -> None:
    record = made.graph_report(8)

    def groups(figure: Figure) -> list[str]:
        legend = figure.axes[0].get_legend()
        assert legend is not None
        return [text.get_text() for text in legend.get_texts()][:-3]

    assert groups(plots.plot(record))[0] == "community 0"
    assert groups(plots.plot(record, by="type")) == sorted(made.TYPES)
    with pytest.raises(InputError, match="coloured by 'size'"):
        plots.plot(record, by="size")


def test_boxes_are_pushed_apart_even_from_one_place() -> None:
    widths = np.array([1.0, 2.0, 0.5, 1.0])
    at = apart(np.zeros((4, 2)), widths, 0.4)
    off = np.abs(at[:, None] - at[None])
    free = (off[..., 0] >= (widths[:, None] + widths) / 2 - 1e-5) | (off[..., 1] >= 0.4 - 1e-5)
    assert free[~np.eye(4, dtype=bool)].all()


def test_the_curve_of_a_choice_and_whom_it_serves() -> None:
    record = made.choice(9)
    figure = plots.plot(record)
    np.testing.assert_allclose(curve(figure, 0), [(one.k, one.mean) for one in record.curve])
    assert float(figure.axes[0].lines[-1].get_ydata()[0]) == record.choice.best
    serves = plots.plot(record, "serves")
    names = row_names(serves)
    assert points(serves) == {
        (round(record.choice.values[name], 9), float(i)) for i, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"), (-0.0001, "-1e-4"), (0.123, "0.12"), (-0.5, "-0.50"), (0.002, "0.002"),
        (12.34, "12.3"), (99.96, "100"), (123.4, "123"), (12345.0, "1e4"), (9.996, "10.0"),
    ],
)  # fmt: skip
def test_values_in_cells_have_about_three_digits(value: float, text: str) -> None:
    assert written(value) == text
