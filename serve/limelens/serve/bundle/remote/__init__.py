"""A model whose sessions are in another process, which owns the device.

A process that serves hands batches over in shared memory and gets the numbers back the same way, so
several of them fill one device without sharing its time out between them. The process that owns the
device is `limelens.serve.processes.device_owner`.

    loading        a bundle whose sessions are there
    runs           its runs and perturbed images, as if its sessions were here
    device_client  the connections to the device's process; notices when it is gone and back
    protocol       the messages
    shared_batch   the memory of one batch, which both processes map

It is for Linux. Both ends are the same program: messages are pickles, and only processes of the
same user may connect.
"""
