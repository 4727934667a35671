"""What arrives by gRPC: interceptor, services, requests, responses and the server itself."""
