"""The durable history of runs: record lines, stores that keep them, and the group commit.

`store` holds the shapes, `memory` and `sqlite` the stores, `journal` what the runtime awaits,
`conformance` what every store must show. Design: docs/design/journal.md.
"""
