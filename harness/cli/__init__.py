"""The command line. On a system without the locks that a run needs, it ends here with one sentence."""

import importlib.util
import sys

if importlib.util.find_spec("fcntl") is None:
    print("error: pudnet-bench needs Linux or macOS; on Windows, install and run it inside WSL 2", file=sys.stderr)
    raise SystemExit(2)
