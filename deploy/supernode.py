"""SuperNode launcher: Flower's SuperNode, in a process that ends when its main thread does.

By itself it stays for ever after an error that it does not retry, such as a certificate that has
expired: the thread of its HTTP server holds the process, and no container engine starts it again.
"""

from __future__ import annotations

import os
import sys
import traceback


def main() -> None:
    """`python -m deploy.supernode flower-supernode ...`: the words of its command line."""
    from flwr.supernode.cli import flower_supernode

    sys.argv = sys.argv[1:]
    status = 1
    try:
        flower_supernode()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except Exception:  # whatever it was, this process has nothing more to do
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
