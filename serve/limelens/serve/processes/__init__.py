"""Several ordinary servers behind one port, and the small process that supervises them.

    supervisor         starts workers, restarts them, passes signals on       `limelens serve`
      worker_process   one worker, as the supervisor sees it
      owners           the owners of devices, and a spare for each
        device_process an owner, as the supervisor sees it
      child_process    what workers and owners are: a process, and the channel to it
      rollout          one state of versions for all workers
      metrics_page     one page of metrics for all workers
    worker             a `limelens.serve.rpc.server.Server` with its share of the machine
      staged_registry  the versions that it serves
    device_owner       runs the models for all workers                    `--device-process`
      joined_batches   what several workers hand over, as one run
    admission          one count of each client's calls; both sides
    channel, messages  what two processes say to each other, and how
    layout, port       shares of the machine; the address that all listen on

Workers are started anew, never forked: threads and CUDA do not survive a fork. They listen on the
same address with SO_REUSEPORT, so the kernel spreads connections over them.
"""
