"""The rows of one session, by hand-written SQL: what every message pays for.

Functions here are jobs for `conversations.lanes`: they take the database first, run inside one
transaction when they write, and know nothing of HTTP, the SDK or ChatKit.

    log        append, clear: what is remembered and shown
    attachments  the files that came with what was said
    recall     what the model is given, and how its newest item is taken back
    tickets    the line of a session: who waits, who starts, who is adopted
    leases     how long a process may be silent, and who is gone
    finishing  how a turn ends that its own process ends
    closing    how turns end that nobody finishes
    clearing   everything said in a session goes
    erasing    everything of one person goes
    stops      a stop asked for in any process
    rewinding  a conversation as it was before one of its turns
    ledger     what was removed, when and by whom; never what it was
    records    what a stream has told, to be told again
    repeats    the same message sent twice
    titles     what an untitled conversation is called
    mending    counters that do not fit their rows
    damage     reading rows that hold what their columns should not
    holds      what nobody may remove
    removing   whole sessions go, with all that belongs to them
    plans      which sessions are idle for too long
    cleanups   who removes those, and what has gone so far
    weights    how much rows hold
    pruning    the oldest leave a memory that is too long
    replacing  a memory gives way to its summary
    restoring  what was set aside is remembered again
    statistics sessions in numbers
    threads    what a person's list and transcript show
    exporting  the same in pages, with all that belongs to it
    review     the staff's list of conversations
    criteria   which conversations those are
    transcripts  a conversation as it happened, for staff
    transcript_turns  its turns
    windows    what the next turn is given, and what an earlier one was
    reads      who of the staff has read what
"""
