#!/usr/bin/env python3
"""Django's command line for this site."""

import os
import sys

import chatsite  # isort: skip  # noqa: F401 - first: umask and the SQLite library


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
