"""``python -m harness``."""

from harness.commands import main

if __name__ == "__main__":
    main()
