"""Every command imports this module first: it ends the command if packages of the extra ``lab`` are missing.

The user then reads one line with the remedy, and no traceback. Where a program of the user's own imports
hemnet.data or a command, an ImportError has the same line. The library, `hemnet.em`, needs torch alone and
does not import this module.
"""

import sys
from importlib.util import find_spec

PACKAGES = (
    "PIL", "albumentations", "cv2", "hydra", "jinja2", "matplotlib", "numpy", "omegaconf", "pydantic",
    "pytorch_lightning", "rich", "scipy", "torchmetrics", "wandb", "yaml",
)  # fmt: skip
"""Import names of the packages that pyproject.toml lists as ``lab``."""


if missing := [name for name in PACKAGES if find_spec(name) is None]:
    message = (
        f"hemnet's commands and data sets need the Python packages {', '.join(missing)}, which are not "
        "installed: pip install 'hemnet[lab]'"
    )
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    by_option = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] if "-m" in sys.orig_argv else []
    if not any(name.partition(".")[0] == "hemnet" for name in [*by_option, spec.name if spec else ""]):
        raise ImportError(message)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
