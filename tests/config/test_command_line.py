"""Words of a command line in any order."""

import argparse

import pytest

from hemnet.config.command_line import add_checkpoint_arguments, parse, run_entry

WAYS = [
    ("one two three --images 3 seed=1", ["one", "two", "three"]),
    ("one --images 3 two seed=1 three", ["one", "two", "three"]),
    ("one two --images 3 --checkpoint best three seed=1", ["one", "two", "three"]),
    ("seed=1 --images 3 one", ["one"]),
    ("seed=1 --images 3 -- -one two=2", ["-one", "two=2"]),
]


@pytest.mark.parametrize(("line", "names"), WAYS, ids=[line for line, _ in WAYS])
@pytest.mark.parametrize("several", [False, True])
def test_options_and_assignments_may_stand_between_names(
    line: str, names: list[str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser(prog="hemnet some")
    add_checkpoint_arguments(parser, several=several)
    parser.add_argument("--images", type=int)
    if not several:
        parser.add_argument("input", nargs="*")
    monkeypatch.setattr("sys.argv", ["some", *line.split()])
    options, assignments = parse(parser)
    found = [path.name for path in options.run] if several else [options.run.name, *options.input]
    assert found == names
    assert options.images == 3
    assert assignments == ["seed=1"]


def test_ctrl_c_ends_a_command_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    def entry() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_entry(entry)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
