"""The rows of one session, by hand-written SQL: what every message pays for.

Functions here are jobs for `conversations.lanes`: they take the database first, run inside one
transaction when they write, and know nothing of HTTP, the SDK or ChatKit.

    log       append, load, pop, clear: what is remembered and shown
    tickets   the life of a turn in the database: queue, lease, fence
    closing   how turns end that nobody finishes
    repeats   the same message sent twice
    threads   what a person's list and transcript show
"""
