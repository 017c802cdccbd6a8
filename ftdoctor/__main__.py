"""`python -m ftdoctor`."""

import sys

from ftdoctor.cli.main import main

sys.exit(main())
