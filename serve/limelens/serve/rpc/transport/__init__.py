"""Below the RPCs: ports, connections, reading of messages, memory."""
