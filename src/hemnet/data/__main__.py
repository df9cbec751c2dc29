"""``python -m hemnet.data`` runs `hemnet.datasets`."""

from hemnet.datasets import main

main()
