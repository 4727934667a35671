"""What lies below the RPCs: ports, connections, the bytes of messages, memory."""
