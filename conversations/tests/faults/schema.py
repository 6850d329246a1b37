"""Changes of the schema that the running code does not know, each in a child of the zygote."""

from __future__ import annotations


def rename_column(*, table: str, old: str, new: str) -> None:
    """What a migration that belongs to other code may do."""
    _run(f'ALTER TABLE "{table}" RENAME COLUMN "{old}" TO "{new}"')


def rename_table(*, old: str, new: str) -> None:
    _run(f'ALTER TABLE "{old}" RENAME TO "{new}"')


def require_column(*, table: str, name: str) -> None:
    """A column that must be given and that the running code does not give. PostgreSQL only."""
    _run(
        f'ALTER TABLE "{table}" ADD COLUMN "{name}" integer NOT NULL DEFAULT 0;'
        f' ALTER TABLE "{table}" ALTER COLUMN "{name}" DROP DEFAULT'
    )


def drop_column(*, table: str, name: str) -> None:
    _run(f'ALTER TABLE "{table}" DROP COLUMN "{name}"')


def _run(sql: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
