"""A site on a PostgreSQL server of its own, to be stopped, paused and crowded under it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from conversations.tests.faults.servers import Site
from conversations.tests.private_postgresql import PrivatePostgresql


@contextmanager
def private_postgresql(**settings: Any) -> Iterator[PrivatePostgresql]:
    """A server that runs with these settings; nothing is left of it at the end."""
    import psycopg

    cluster = PrivatePostgresql()
    try:
        cluster.start()
        with psycopg.connect(cluster.url, autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = {value!r}")  # type: ignore[arg-type]
        cluster.stop()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


def site_on(cluster: PrivatePostgresql, **options: Any) -> Site:
    """The site, with a database of its own there; that of the engine it names stays empty."""
    import psycopg

    name = f"site_{secrets.token_hex(3)}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    url = urlsplit(cluster.url)._replace(path=f"/{name}").geturl()
    return Site("delete", DATABASE_URL=url, **options)


class Crowd:
    """Other programs that take every connection the server has."""

    def __init__(self, cluster: PrivatePostgresql) -> None:
        self._cluster = cluster
        self._connections: list[Any] = []

    def come(self) -> int:
        """Take all that are left, and wait until there is really none; how many there were."""
        import psycopg

        while True:
            try:
                self._connections.append(psycopg.connect(self._cluster.url, autocommit=True))
            except psycopg.OperationalError as error:
                if "clients already" in str(error) or "connection slots" in str(error):
                    return len(self._connections)
                raise

    def go(self) -> None:
        while self._connections:
            self._connections.pop().close()

    def leave_one(self) -> None:
        self._connections.pop().close()
