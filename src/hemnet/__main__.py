"""The command ``hemnet``, also ``python -m hemnet``: ``hemnet NAME ...`` is ``python -m hemnet.NAME ...``."""

import runpy
import sys

from hemnet import __version__

COMMANDS = {
    "init": "write a recipe for a folder of photographs and masks of your own",
    "train": "train a network, or with --multirun the networks of a sweep",
    "evaluate": "score trained networks",
    "predict": "segment images with a trained network",
    "explore": "write a page to look at what EM does with photographs",
    "export": "write a trained network for use without hemnet",
    "report": "write one page on many runs, with figures and tables",
    "search": "search for settings with Optuna",
    "cost": "count a network's FLOPs and parameters, and time it",
    "bench": "measure the EM layer, the input path, several processes",
    "data": "get, check and look at data sets",
}
USER_ERROR = 2


def main() -> None:
    """Run the module that the first argument names, and import no other."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: hemnet COMMAND ...\n")
        print("\n".join(f"  {command:<10}{does}" for command, does in COMMANDS.items()))
        print("\nhemnet COMMAND --help describes a command; hemnet --version prints the version.")
    elif name == "--version":
        print(__version__)
    elif name in COMMANDS:
        del sys.argv[1]
        # Python would import hemnet.data as a package first, where a missing lab is an ImportError.
        module = "datasets" if name == "data" else name
        runpy.run_module(f"hemnet.{module}", run_name="__main__", alter_sys=True)
    else:
        print(f"error: hemnet has no command {name}: there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
