"""What lies below the RPCs: ports, connections, the reading of messages, memory."""
