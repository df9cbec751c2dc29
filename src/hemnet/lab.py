"""Every command imports this module first: it ends the command if packages of the extra ``lab`` are missing.

The user then reads one line with the remedy, and no traceback. The library, `hemnet.em`, needs torch alone
and does not import this module.
"""

import sys
from importlib.util import find_spec

PACKAGES = (
    "PIL", "albumentations", "cv2", "hydra", "jinja2", "matplotlib", "numpy", "omegaconf", "pydantic",
    "pytorch_lightning", "rich", "scipy", "torchmetrics", "wandb", "yaml",
)  # fmt: skip
"""Import names of the packages that pyproject.toml lists as ``lab``."""

if missing := [name for name in PACKAGES if find_spec(name) is None]:
    print(
        f"error: hemnet's commands need the Python packages {', '.join(missing)}, which are not installed: "
        "pip install 'hemnet[lab]'",
        file=sys.stderr,
    )
    sys.exit(2)
