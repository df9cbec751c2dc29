"""The numbers that README.md states of the study are those of its committed tables."""

from pathlib import Path

from quoted_cells import table_of

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "experiments/results/study"
TEXT = " ".join((ROOT / "README.md").read_text("utf-8").split())


def difference(table: str, side: str) -> list[float]:
    """Return the mean difference of a contrast, and the ends of its interval."""
    row = next(row for row in table_of(TABLES / table) if side in row["contrast"])
    return [float(row["mean difference"]), *map(float, row["95% interval"].split(" to "))]


def test_the_differences_are_those_of_the_tables() -> None:
    mean, low, high = difference("primary.csv", "h = 0,")
    assert f"({mean:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})" in TEXT
    (emanet, *ends), (fcn, *others) = (difference("baselines.csv", f"`{head}`") for head in ("emanet", "fcn"))
    first = f"{-emanet:.3f} ({-ends[1]:.3f} to {-ends[0]:.3f})"
    assert f"{first} and {-fcn:.3f} ({-others[1]:.3f} to {-others[0]:.3f})" in TEXT
    lower, *_ = difference("unit_means.csv", "`emanet`")
    assert f"EMANet's head with that gradient scores {lower:.3f} lower;" in TEXT
    higher, *_ = difference("no_gradient_through_the_em_layer.csv", "against h = 0.5, T = 3, Eq. 8")
    scores = {row["setting"]: row for row in table_of(TABLES / "scores.csv")}
    lead = sum(
        float(scores["`emanet`"][seed]) - float(scores["h = 0.5, T = 3, Eq. 8"][seed])
        for seed in ("seed 0", "seed 1", "seed 2")
    )
    gain = f"{higher:.3f} higher, in seeds in which EMANet leads by {lead / 3:.3f}."
    assert f"highway EM's layer trained without it scores {gain}" in TEXT


def ends(rows: list[dict[str, str]]) -> str:
    """Return the least and the largest score of rows of scores.csv."""
    scores = [
        float(value) for row in rows for name, value in row.items() if name.startswith("seed") and value
    ]
    return f"{min(scores):.2f} to {max(scores):.2f}"


def test_the_scores_and_the_networks_that_sharpen_are_those_of_the_tables() -> None:
    rows = table_of(TABLES / "scores.csv")
    papers = [row for row in rows if "σ² = 1" not in row["setting"]]
    assert f"with no EM score {ends(papers)}." in TEXT
    older = [row for row in rows if row["setting"].endswith(" T = 8, σ² = 1")]
    assert f"at which scores are low ({ends(older)})" in TEXT
    sharpened = sum(int(row["fell with every t"]) for row in table_of(TABLES / "sharpening.csv"))
    assert f"in {['eight', 'nine', 'ten'][sharpened - 8]} of sixteen networks" in TEXT
