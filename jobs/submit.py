"""What `spark-submit` runs: the `mart` command, as in `spark-submit --py-files mart_redteam-….zip submit.py step attack …`."""

import sys

from jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
