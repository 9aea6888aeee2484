"""`python -m recap_fast` is `recap-fast`."""

from recap_fast.cli.main import main

main()
