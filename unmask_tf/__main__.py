"""`python -m unmask_tf`."""

import sys

from unmask_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
