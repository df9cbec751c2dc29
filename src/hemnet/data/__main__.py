"""``python -m hemnet.data`` is `hemnet.datasets`."""

from hemnet.datasets import main

main()
