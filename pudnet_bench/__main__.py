"""Run the command line as `python -m pudnet_bench`."""

from pudnet_bench.harness.cli.app import main

if __name__ == "__main__":
    main()
