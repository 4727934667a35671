"""The contract: messages and service stubs generated from the .proto files beside this one."""
