"""How sessions run on a GPU.

batch_sizes     a model at prepared batch sizes
perturbing      perturbed images that are made on the device
  prepared      runs of a session at one shape, page-locked memory
device_thread   the one thread that talks to a GPU
"""
