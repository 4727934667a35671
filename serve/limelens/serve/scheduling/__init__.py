"""What runs the models: one engine a device, each with a queue, its threads and its sessions.

engine      the interface, and the values that go in and come out
queue       who is next, and what is dropped; what both engines share
cpu         worker threads that run one image each
gpu         images joined into prepared batches
"""
