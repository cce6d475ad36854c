"""Runs in PostgreSQL: shared by any number of machines, durable at every commit.

`store` implements Store; `address` reads the URL, `link` keeps a connection, `lease` renews the
process's claim on its runs, `schema` makes the tables, `packing` moves rows. Loaded when an address
of a journal begins with postgresql://. Design: docs/design/journal.md; for users: docs/postgres.md.
"""
