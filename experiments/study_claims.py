"""The paper's claims that STUDY.md decides, each with its verdict."""

from collections.abc import Mapping, Sequence

from study_measures import sharpened
from study_tables import Table
from study_verdicts import SO_FAR, Found, Outcome, qualified

HEADER = ("claim", "test", "verdict")


def claims(decided: Mapping[str, Sequence[Outcome]], primary: Found) -> Table:
    """Return the claims with their verdicts, from the outcomes of the plan's families by title."""

    def words(title: str, contrast: int = 0) -> str:
        return decided[title][contrast].words

    rows = [
        ("a highway makes a better segmenter than plain EM", "h = 0.5 against 0, T = 3", words("Primary")),
        (
            "1. at a smaller η the likelihood rises more slowly",
            "the first iteration's part of the gain",
            words("Part of the likelihood's gain in the first iteration"),
        ),
        (
            "1. and the gradient spreads over the iterations",
            "evenness of `gradient/share`",
            words("Evenness of the gradient's shares, last tenth"),
        ),
        *of_step_sizes(decided["Depth"]),
        *(
            (claim, f"T_eval = {T} against 3, h = {h}", words(f"T_eval, h = {h}", contrast))
            for contrast, T, claim in (
                (0, 6, "3. T_eval > T_train can help"),
                (1, 16, "3. too large a T_eval harms"),
            )
            for h in ("0.5", "0")
        ),
        ("4. better than EMANet", "h = 0.5 against `emanet`, T = 3", words("Baselines", 0)),
        (
            "no claim of the paper: better than a head without EM",
            "h = 0.5 against `fcn`, T = 3",
            words("Baselines", 1),
        ),
        (
            "5. attention sharpens with every iteration",
            "entropy falls with every t in 16 runs",
            sharpening(primary),
        ),
    ]
    return Table("claims", HEADER, rows)


def of_step_sizes(depth: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    """Return the rows of claim 2, and that some highway beats plain EM, from the family "Depth"."""
    known = {(v.contrast.first.T, v.contrast.first.h, v.contrast.second.h): v for v in depth}
    made = []
    for claim, test, of, enough in (
        ("plain EM is beaten at many iterations", "h = 0.5 or 0.9 against 0", ((0.5, 0.0), (0.9, 0.0)), any),
        ("2. the best η is intermediate", "h = 0.5 against both 0 and 0.9", ((0.5, 0.0), (0.5, 0.9)), all),
    ):
        for T in (8, 16):
            parts = [known[T, *pair] for pair in of]
            shown = enough(part.words.startswith("supported") for part in parts)
            waits = any(part.words.startswith("not yet") for part in parts)
            may_turn = enough(map(may_be_supported, parts))
            decided = "supported" if shown else f"not supported{SO_FAR if may_turn else ''}"
            verdict = "not yet" if waits and not shown else qualified(decided, 3)
            made.append((claim, f"{test}, T = {T}", verdict))
    return made


def may_be_supported(outcome: Outcome) -> bool:
    """Whether a contrast that the paper claims to be above 0 is supported, or may still become so."""
    if SO_FAR not in outcome.words:
        return outcome.words.startswith("supported")
    return outcome.found is not None and outcome.found.difference.mean > 0


def sharpening(primary: Found) -> str:
    """Return the verdict on claim 5, from the columns "runs" and "fell with every t" of `sharpened`."""
    rows = sharpened(primary).rows
    known, fell = (sum(row[column] for row in rows) for column in (1, 2))
    waits = f"not yet: {known} of 16 runs" if known < 16 else "supported"
    words = "not supported" if fell < known else waits  # one run that rises decides
    return f"{words}: it does in {fell} of {known}"
