"""What runs the models: one engine for each device.

inference      the values that go in and come out
engine         the queue and its worker threads; what both engines share
  cpu          worker threads that run one image each
  gpu          images joined into prepared batches
statistics     what each model has done
memory_budget  bytes of requests that may wait
turns          limited places, given to clients in turn
"""
