import json
from collections.abc import Callable

import pytest

from metaot.amortize import Predictor
from metaot.data.base import ProblemSet
from metaot.evaluation import Report
from metaot.evaluation.table import markdown


def test_json_holds_every_instance(report: Report) -> None:
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["machine"].keys() >= {"torch", "threads", "dtype", "platform"}
    assert [result["eps"] for result in plain["results"]] == [result.eps for result in report.results]
    for result, measured in zip(plain["results"], report.results, strict=True):
        assert len(result["reference"]["dual_value"]) == report.instances
        for start in measured.starts:
            told = result["starts"][start.name]
            for tolerance in told["to_tolerance"]:
                assert tolerance["steps"] == start.steps(tolerance["tol"]).tolist()
                assert tolerance["mean_steps"] == pytest.approx(sum(tolerance["steps"]) / report.instances)
            assert [after["steps"] for after in told["after"]] == [0, 1, 2]
            assert told["after"][0]["l1_error"] == pytest.approx(start.quality[0].l1_error.tolist(), rel=1e-5)
            assert told["error_by_step"]["mean"] == pytest.approx(start.curve.mean(1).tolist(), rel=1e-5)


def test_the_table_fits_a_terminal_and_shows_the_means(report: Report) -> None:
    text = report.table()
    assert max(map(len, text.splitlines())) <= 110
    for result in report.results:
        assert f"### eps = {result.eps:g}" in text
        for start in result.starts:
            steps = start.steps(1e-3).double()
            assert f" {steps.mean():.1f} ({steps.quantile(0.95):.0f}) |" in text


def test_the_ratio_is_against_the_best_other_start(report: Report) -> None:
    means = [float(start.steps(1e-2).double().mean()) for start in report.results[0].starts]
    assert f"| best other / model | {min(means[:-1]) / means[-1]:.2f}x |" in " ".join(
        report.table().replace("|  ", "| ").split()
    )


def test_what_was_not_reached_is_marked(
    problems: ProblemSet, rough: Predictor, quick: Callable[..., Report]
) -> None:
    text = quick(rough, problems, eps=(2e-2,), max_steps=2).table()
    row, *_ = [
        line for line in text.splitlines() if line.startswith("| zeros")
    ]  # the steps come first, then times
    assert ">2.0 (>2)" in row


def test_markdown_is_aligned() -> None:
    assert markdown(["a", "b"], [["long", "1"], ["x", "22"]]) == [
        "| a    |  b |",
        "|------|---:|",
        "| long |  1 |",
        "| x    | 22 |",
    ]
