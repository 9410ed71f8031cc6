"""Run the command line as `python -m harness` in a checkout."""

import sys

from pudnet_bench.harness.cli.app import main

sys.modules.pop("harness", None)  # what Python called pudnet_bench.harness to find this file: a module has one name

if __name__ == "__main__":
    main()
