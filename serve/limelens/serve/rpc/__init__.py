"""gRPC: the server, its interceptor and services, requests and responses."""
