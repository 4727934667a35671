"""How a session is run: prepared batch sizes, the thread of a GPU, perturbation on the device."""
