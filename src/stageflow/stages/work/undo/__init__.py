"""The undo log: every change with what was there before it, so that it can be put back.

`records` is what is written, `log` what it means, pure; `timeline` drives; `store`, `memory` and
`sqlite` keep it; `rows`, `files` and `web` are resources that can be put back.
"""
