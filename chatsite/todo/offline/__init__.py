"""The offline model: answers by fixed rules, from what it is given and from nothing else.

`history` reads the SDK's items, `understanding` turns a sentence into intents, `facts` keeps what
the person said about themselves, `answering` decides on tool calls or words, `model` is the SDK's
`Model` over all of it.
"""
