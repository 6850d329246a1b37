"""The site. Importing it sets what must be set before anything else in the process runs."""

import os

from conversations import sqlite

os.umask(0o077)  # the database, its journals and every export hold what people said
sqlite.use_safe_library()
