"""`manage.py backup_database FILE`: a copy of the embedded engine's file, while it is in use."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connection

from conversations import sqlite
from conversations.errors import NotConfigured
from conversations.management import console
from conversations.management.files import CannotWrite
from conversations.sqlite.copying import copy_to


class Command(console.ConsoleCommand):
    help = (
        "Copy the SQLite database to a new file, readable by you only, while the site runs. For "
        "PostgreSQL use pg_dump. Attached files are copied after it, by you."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="a new file")
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["file"]
        if connection.vendor != "sqlite":
            raise NotConfigured("This site's database is not SQLite: use pg_dump.")
        try:
            connection.ensure_connection()
            with self.progress("Copying"):
                size = copy_to(connection.connection, Path(name))
        except FileExistsError:
            raise CannotWrite(f"{name} is there already; name a new file.") from None
        except UnicodeEncodeError:
            raise CannotWrite(f"{name} cannot be written: name it in UTF-8 for SQLite.") from None
        except OSError as error:
            raise CannotWrite(f"{name} cannot be written: {error.strerror}.") from error
        except (DatabaseError, sqlite.driver().Error) as error:
            raise CannotWrite(f"{name} was not written: {error}.") from error
        found = {"file": name, "bytes": size}
        self.answer(found, f"copied: {name}, {size} bytes", as_json=options["json"])
