"""Several ordinary servers behind one port, and the small process that looks after them.

    supervisor   starts workers, restarts them, passes signals on         `limelens serve`
      rollout    one state of versions for all of them
      admission  one count of each client's calls
      totals     one page of metrics
    worker       a `limelens.serve.rpc.server.Server` with its share of the machine

Workers are started anew, never forked: threads and CUDA do not survive a fork. They listen on the
same address by SO_REUSEPORT, so the kernel spreads connections over them.
"""
