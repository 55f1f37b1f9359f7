"""`python -m wsi_pipeline`: the command line."""

import sys

from wsi_pipeline.cli.group import main

if __name__ == "__main__":
    sys.exit(main())
