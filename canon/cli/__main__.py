"""``python -m canon.cli``, where the script ``canon`` is not on the path."""

import sys

from canon.cli import main

sys.exit(main())
