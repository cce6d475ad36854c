"""The effect ledger: what is known of every effect, by its key.

`entry` is the state machine, pure; `ledger` asks it through a store; stores are in memory, SQLite,
PostgreSQL and Redis.
"""
