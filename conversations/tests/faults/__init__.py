"""The fault harness: real servers that are killed, paused and stopped while real clients speak.

    python -m conversations.tests.faults [--engine wal|delete|postgresql|all] [--only crash ...]

It knows the site by its contract alone: HTTP in front, rows at the end, and between them a model
(`agent`) that keeps a journal of what it was asked and when.
"""
