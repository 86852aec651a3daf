"""Wire format, what crosses the wall and how: messages, envelopes, framing, state transfer,
signing."""
