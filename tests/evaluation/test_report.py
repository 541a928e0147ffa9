import json

import pytest
import torch
from blobs import quick, report

from metaot.evaluation import report as module
from metaot.evaluation.report import Quality, StartResult, Timing, markdown
from metaot.evaluation.zero_shot import ZeroShot
from metaot.evaluation.zero_shot import table as zero_shot_table


def test_json_holds_every_instance() -> None:
    plain = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert plain["machine"].keys() >= {"torch", "threads", "dtype", "platform"}
    assert [result["eps"] for result in plain["results"]] == [result.eps for result in report().results]
    for result, measured in zip(plain["results"], report().results, strict=True):
        assert len(result["reference"]["dual_value"]) == report().instances
        for start in measured.starts:
            content = result["starts"][start.name]
            for tolerance in content["to_tolerance"]:
                assert tolerance["steps"] == start.steps(tolerance["tol"]).tolist()
                assert tolerance["mean_steps"] == pytest.approx(sum(tolerance["steps"]) / report().instances)
            assert [after["steps"] for after in content["after"]] == [0, 1, 2]
            assert content["after"][0]["l1_error"] == pytest.approx(start.quality[0].l1_error.tolist(), rel=1e-5)
            assert content["error_by_step"]["mean"] == pytest.approx(start.curve.mean(1).tolist(), rel=1e-5)


def test_the_table_fits_a_terminal_and_shows_means_and_the_ratio_to_the_best_other_start() -> None:
    text = report().table()
    assert max(map(len, text.splitlines())) <= 110
    for result in report().results:
        assert f"### eps = {result.eps:g}" in text
        for start in result.starts:
            steps = start.steps(1e-3).double()
            assert f" {steps.mean():.1f} ({steps.quantile(0.95):.0f}) |" in text
    *others, model = (float(start.steps(1e-2).double().mean()) for start in report().results[0].starts)
    assert f"| best other / model | {min(others) / model:.2f}x |" in " ".join(text.replace("|  ", "| ").split())


def test_what_was_not_reached_is_marked() -> None:
    lines = quick(eps=(2e-2,), max_steps=2).table().splitlines()
    steps, *_ = [line for line in lines if line.startswith("| zeros")]  # other tables follow
    assert ">2.0 (>2)" in steps


def test_words_say_which_starts_were_replaced_and_why() -> None:
    """Of ten starts four are below zeros and two far from all; three of these ten would be no matter."""
    ten, none = torch.zeros(10), torch.zeros(10, dtype=torch.bool)
    gaps, replaced = torch.tensor([2.0] * 4 + [0.5] * 6), torch.tensor([True] * 6 + [False] * 4)
    zeros = StartResult("zeros", ten[None], none, (Quality(0, ten + 0.2, ten + 1, ten, ten),), ())
    model = StartResult("model", ten[None], replaced, (Quality(0, ten + 0.2, gaps, ten, ten),), ())
    text = " ".join(module._replacement(model, zeros).split())
    assert "In 6 of 10 problems the start 'model' was not clearly better than zeros" in text
    assert "4 had a lower dual value than zeros; 2 had an L1 error above 0.1" in text
    assert "train it for longer" in text
    few = StartResult("model", ten[None], torch.arange(10) == 9, model.quality, ())
    assert "1 had an L1 error" in module._replacement(few, zeros)
    assert "train it" not in module._replacement(few, zeros)


def test_markdown_is_aligned() -> None:
    assert markdown(["a", "b"], [["long", "1"], ["x", "22"]]) == [
        "| a    |  b |",
        "|------|---:|",
        "| long |  1 |",
        "| x    | 22 |",
    ]


def test_quantiles_are_those_of_what_was_measured() -> None:
    """Of 0, 1, ..., 100 the median is 50, the mean 50 and p95 is 95, in tables and in JSON."""
    values = torch.arange(101.0)
    quality = Quality(0, values, values, values, values)
    curve = (values[None] >= torch.arange(102.0)[:, None]).double()
    start = StartResult("model", curve, values < 0, (quality,), (Timing(1e-2, values, True),))
    content = module._start_json(start, (0.5,))
    steps, times = content["to_tolerance"][0], content["time"][0]
    assert (steps["mean_steps"], steps["p95_steps"]) == pytest.approx((51, 96))
    assert (times["median_seconds"], times["p95_seconds"]) == pytest.approx((50, 95))
    assert content["error_by_step"]["p10"][0] == content["error_by_step"]["p90"][0] == 1
    assert module._quality_means(quality)["relative_cost_error_p95"] == pytest.approx(95)
    assert module._steps_cell(start, 0.5) == "51.0 (96)"
    assert module._time_cell(start.timings[0]) == "5e+04 (9.5e+04)"
    assert module._quality_cells(quality)[-1] == "5e+03 % (9.5e+03 %)"
    shown = zero_shot_table([ZeroShot("noise", 7, 0.1, {"model": {"L1 error": values}})])
    assert "50 (95, 100)" in shown
